"""Who asks: the address of a client, also behind proxies, and how fast one address may ask."""

import ipaddress
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from starlette.datastructures import Headers
from starlette.types import Scope

from dogbreeds.errors import UserError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

REQUESTS_PER_SECOND = 10.0
"""For one address, on average; one answer takes three requests from a program, six from a browser."""
REQUESTS_AT_ONCE = 400
"""For one address, after a pause: enough for a class of thirty that opens the page."""


class Proxies:
    """The proxies before this server, whose headers about the client are believed."""

    def __init__(self, trusted: Sequence[str] = ()) -> None:
        """Name them.

        Args:
            trusted: Addresses or networks, such as ``127.0.0.1`` or ``10.0.0.0/8``. On a Space, its own are added.

        Raises:
            UserError: One is neither.
        """
        self._networks: list[Network] = []
        for text in trusted:
            try:
                self._networks.append(ipaddress.ip_network(text))
            except ValueError:
                raise UserError(f"--trusted-proxy {text}: give an address, or a network as 10.0.0.0/8") from None
        self._on_space = "SPACE_ID" in os.environ
        """A Space is reached through proxies of the Hub alone, whose addresses are private and not published."""

    def trusts(self, peer: str) -> bool:
        """Whether what this address says about its client is believed."""
        address = _address(peer)
        return self._on_space or (address is not None and self._are_known(address))

    def client(self, scope: Scope) -> str:
        """The client's network: the last address that no trusted proxy has, as clients can invent those before it."""
        peer = scope["client"][0] if scope.get("client") else ""
        hops = [peer]
        if self.trusts(peer):
            hops = [*",".join(Headers(scope=scope).getlist("x-forwarded-for")).split(","), peer]
        for hop in reversed(hops):
            address = _address(hop)
            if address is None:
                break  # nothing before it can be believed
            peer = hop
            if not self._are_known(address) and (address.is_global or not self._on_space):
                break
        return _network(peer)

    def _are_known(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        return any(address in network for network in self._networks)


def _address(hop: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address of a proxy's entry, with or without a port; None if there is none."""
    hop = hop.strip()
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        address = ipaddress.ip_address(hop)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _network(peer: str) -> str:
    """One household has one IPv4 address, but 2^64 IPv6 addresses, a /64 network."""
    address = _address(peer)
    if address is None:
        return ""
    return str(address if address.version == 4 else ipaddress.ip_network((address, 64), strict=False))


class RateLimiter:
    """A token bucket for each address: a request takes a token, and time refills the bucket."""

    _MAX_ADDRESSES = 10_000
    _SECONDS_UNTIL_FULL = REQUESTS_AT_ONCE / REQUESTS_PER_SECOND

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Begin with full buckets.

        Args:
            now: The time in seconds.
        """
        self._now = now
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Of the addresses whose bucket may not be full: its tokens, and when that was; the longest ago first."""

    def allows(self, address: str) -> bool:
        """Whether a request from this address is allowed; it takes a token."""
        now = self._now()
        tokens, since = self._buckets.pop(address, (REQUESTS_AT_ONCE, now))
        tokens = min(REQUESTS_AT_ONCE, tokens + (now - since) * REQUESTS_PER_SECOND)
        allowed = tokens >= 1
        self._buckets[address] = (tokens - allowed, now)
        self._forget_full_ones(now)
        return allowed

    def _forget_full_ones(self, now: float) -> None:
        """Of too many addresses, the one with the longest pause counts as full too."""
        while (
            len(self._buckets) > self._MAX_ADDRESSES
            or next(iter(self._buckets.values()))[1] < now - self._SECONDS_UNTIL_FULL
        ):
            self._buckets.popitem(last=False)
