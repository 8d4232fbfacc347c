"""kube-proxy's rules on every node of an embedded lab, in iptables or nftables form."""
