"""Makes the kernel's accounting objects that kube-proxy's rules name (xt_nfacct).

Source: include/uapi/linux/netfilter/nfnetlink_acct.h.
"""

import errno
import socket
import struct

from lab import netns

_NETLINK_NETFILTER = 12
_NFNL_SUBSYS_ACCT = 7
_NFNL_MSG_ACCT_NEW = 0
_REQUEST_ACK_CREATE = 0x1 | 0x4 | 0x400
_NFACCT_NAME = 1


def make_accounts(name: str, accounts: tuple[str, ...]) -> bool:
    """Make the objects in namespace `name`; return False where its kernel has no accounting."""

    def make() -> bool:
        try:
            link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        except OSError:
            return False
        with link:
            link.settimeout(2.0)
            link.bind((0, 0))
            return all(_make(link, account) for account in accounts)

    return netns.call_in(name, make)


def _make(link: socket.socket, account: str) -> bool:
    value = account.encode() + b"\0"
    attribute = struct.pack("=HH", 4 + len(value), _NFACCT_NAME) + value
    body = struct.pack(">BBH", 0, 0, 0) + attribute + b"\0" * (-len(attribute) % 4)
    kind = _NFNL_SUBSYS_ACCT << 8 | _NFNL_MSG_ACCT_NEW
    link.send(struct.pack("=IHHII", 16 + len(body), kind, _REQUEST_ACK_CREATE, 1, 0) + body)
    (code,) = struct.unpack_from("=i", link.recv(4096), 16)
    # an object that is there already is EBUSY
    return bool(-code in (0, errno.EBUSY))
