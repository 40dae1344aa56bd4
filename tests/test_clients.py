import pytest

from dogbreeds.errors import UserError
from dogbreeds.serving.clients import REQUESTS_AT_ONCE, REQUESTS_PER_SECOND, Proxies, RateLimiter


def test_patience_fills_the_bucket_again():
    now = 0.0
    pace = RateLimiter(lambda: now)
    assert all(pace.allows("a") for _ in range(REQUESTS_AT_ONCE)) and not pace.allows("a")
    now = 1.0
    assert sum(pace.allows("a") for _ in range(50)) == REQUESTS_PER_SECOND
    for number in range(20_000):
        pace.allows(str(number))
    assert len(pace._buckets) <= 10_000
    now += REQUESTS_AT_ONCE / REQUESTS_PER_SECOND + 1  # all are full again
    assert pace.allows("b") and len(pace._buckets) == 1


SPACE = "me/dogs"


@pytest.mark.parametrize(
    ("space", "trusted", "peer", "forwarded", "address"),
    [
        (SPACE, [], "10.0.0.2", "6.6.6.6, 9.9.9.9, 10.0.0.7", "9.9.9.9"),
        (SPACE, [], "10.0.0.2", "6.6.6.6, 2a00:1:2:3:4:5:6:7", "2a00:1:2:3::/64"),
        (SPACE, [], "10.0.0.2", "nonsense", "10.0.0.2"),
        (SPACE, [], "10.0.0.2", "", "10.0.0.2"),
        (None, [], "127.0.0.1", "6.6.6.6", "127.0.0.1"),
        (None, ["127.0.0.1"], "127.0.0.1", "6.6.6.6", "6.6.6.6"),
        (None, ["127.0.0.1"], "127.0.0.1", "6.6.6.6, 192.168.1.5", "192.168.1.5"),
        (None, ["127.0.0.0/8", "10.0.0.0/8"], "127.0.0.1", "6.6.6.6, 9.9.9.9, 10.1.2.3", "9.9.9.9"),
        (None, ["127.0.0.1"], "127.0.0.2", "6.6.6.6", "127.0.0.2"),
        (None, ["127.0.0.1"], "127.0.0.1", "9.9.9.9, unknown", "127.0.0.1"),
        (None, ["127.0.0.1"], "127.0.0.1", "9.9.9.9:4711", "9.9.9.9"),
        (None, ["127.0.0.1"], "127.0.0.1", "[2a00:1:2:3::9]:4711", "2a00:1:2:3::/64"),
        (None, ["127.0.0.1"], "::ffff:127.0.0.1", "9.9.9.9", "9.9.9.9"),
        (None, [], "", "9.9.9.9", ""),
    ],
)
def test_an_address_is_believed_as_far_as_it_can_be(monkeypatch, space, trusted, peer, forwarded, address):
    monkeypatch.delenv("SPACE_ID", raising=False)
    if space:
        monkeypatch.setenv("SPACE_ID", space)
    scope = {
        "type": "http",
        "client": (peer, 5) if peer else None,
        "headers": [(b"x-forwarded-for", forwarded.encode())],
    }
    assert Proxies(trusted).client(scope) == address


@pytest.mark.parametrize("text", ["proxy", "10.0.0.1/8", "10.0.0.0/33", ""])
def test_what_is_no_proxy_is_named(text):
    with pytest.raises(UserError, match=f"--trusted-proxy {text}: give an address"):
        Proxies([text])
