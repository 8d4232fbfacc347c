"""Keeps kube-proxy's rules of one node: both families, one of the two modes.

Must not read the API: it is given service ports.
"""

import logging
import re
from collections.abc import Iterable

from lab import netns
from lab.embedded.proxy import iptables, nftables
from lab.embedded.proxy.decision import NodeView
from lab.embedded.proxy.nfacct import make_accounts
from lab.embedded.proxy.services import ServicePort
from lab.ruler import ChainKeeper, Children

log = logging.getLogger(__name__)


class IptablesKeeper:
    """iptables mode on one node in one family."""

    def __init__(self, children: Children, name: str, view: NodeView) -> None:
        self._view = view
        self._name = name
        self._nfacct: bool | None = None
        self._keeper = ChainKeeper(children, name, view.family, iptables.OWNED, iptables.BEHIND)

    async def apply(self, ports: Iterable[ServicePort]) -> bool:
        """Write what changed and return whether anything did; NetnsError where the kernel refuses."""
        if self._nfacct is None:
            accounts = (iptables.NFACCT_INVALID, iptables.NFACCT_LOCALHOST)
            self._nfacct = make_accounts(self._name, accounts)
            # kube-proxy does so, for node ports on 127.0.0.1
            netns.sysctl_set(self._name, {"ipv4/conf/all/route_localnet": "1"})
        return await self._keeper.apply(iptables.make_rule_set(ports, self._view, self._nfacct))


class NftablesKeeper:
    """nftables mode on one node in one family."""

    def __init__(self, children: Children, name: str, view: NodeView) -> None:
        self._children = children
        self._name = name
        self._view = view
        self._applied: nftables.Table | None = None
        self._kubelet = ChainKeeper(children, name, view.family, re.compile("(?!)"), iptables.BEHIND)

    async def apply(self, ports: Iterable[ServicePort]) -> bool:
        """Write what changed and return whether anything did; NetnsError where the kernel refuses."""
        if self._kubelet.fresh:
            await self._kubelet.apply(iptables.kubelet_rule_set(self._view.family))
        wanted = nftables.make_table(ports, self._view)
        if self._applied is not None:
            text = nftables.changed_transaction(wanted, self._applied)
            if not text:
                return False
            try:
                await self._children.run(self._name, ["nft", "-f", "-"], text)
            except netns.NetnsError as error:
                # Something that we rely on is not as we left it: write everything.
                log.warning("%s: %s", self._name, error)
            else:
                self._applied = wanted
                return True
        await self._children.run(self._name, ["nft", "-f", "-"], nftables.full_transaction(wanted))
        self._applied = wanted
        return True


Keeper = IptablesKeeper | NftablesKeeper


def make_keeper(mode: str, children: Children, name: str, view: NodeView) -> Keeper:
    """Return the keeper of a mode ("iptables" or "nftables") for namespace `name`."""
    return (NftablesKeeper if mode == "nftables" else IptablesKeeper)(children, name, view)
