"""What reaches what on a real Kubernetes is what the sample says: the laws of the embedded lab, word for word.

NetworkPolicy is enforced by the lab's own enforcement, which knows only the API and the nodes' namespaces.
"""

from tests.lab.test_reach import (
    test_an_uplink_that_comes_back_brings_its_routes,
    test_every_pod_reaches_just_the_pods_that_it_may,
    test_names_are_what_the_specification_says,
    test_node_ports_and_load_balancers_lead_in_from_outside,
    test_nothing_leads_out_of_a_lab,
    test_pods_reach_the_outside_just_as_they_may,
    test_pods_resolve_short_names_by_their_own_resolv_conf,
    test_service_addresses_lead_to_their_pods,
)

__all__ = [
    "test_an_uplink_that_comes_back_brings_its_routes",
    "test_every_pod_reaches_just_the_pods_that_it_may",
    "test_names_are_what_the_specification_says",
    "test_node_ports_and_load_balancers_lead_in_from_outside",
    "test_nothing_leads_out_of_a_lab",
    "test_pods_reach_the_outside_just_as_they_may",
    "test_pods_resolve_short_names_by_their_own_resolv_conf",
    "test_service_addresses_lead_to_their_pods",
]
