"""Which addresses a server may be sent to by strangers."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_NAT64 = IPv6Network("64:ff9b::/96")
_SPECIAL = (IPv4Network("192.0.0.0/24"), IPv4Network("192.88.99.0/24"), IPv6Network("3fff::/20"))
"""Of IANA's registries, what some versions of Python take for public: protocols, 6to4 relays, documentation."""


def is_public(text: str) -> bool:
    """Whether an address belongs to the public internet, as `socket.getaddrinfo` gives it.

    None of private, loopback, link-local (also of clouds' metadata), shared, multicast, reserved and unspecified
    addresses do, and no IPv6 address that stands for such an IPv4 address (mapped, NAT64, 6to4).
    """
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        if (meant := _embedded(address)) is not None:
            return is_public(str(meant))
        if address.is_site_local or address.teredo is not None:
            return False
    return address.is_global and not (
        address.is_multicast
        or address.is_reserved
        or address.is_private
        or address.is_link_local
        or address.is_loopback
        or address.is_unspecified
        or any(address in network for network in _SPECIAL)
    )


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that packets to it end at."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64:
        return IPv4Address(address.packed[-4:])
    return address.sixtofour
