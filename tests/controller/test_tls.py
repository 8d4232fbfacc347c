"""The controller's own authority and certificate: made, kept, renewed, and at all times such that agents trust it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from controller.tls import (
    CA_LASTS,
    CA_RENEWED_BEFORE,
    LEAF_LASTS,
    LEAF_RENEWED_BEFORE,
    SETTLED,
    Material,
    Pair,
    renewed,
)

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
NAMES = ("kubereach-controller.kubereach.svc", "10.77.1.11", "fd77:1::11")


def certificate(pair: Pair) -> x509.Certificate:
    """The certificate of a pair that is whole."""
    read = pair.read()
    assert read is not None
    return read[0]


def verifies(material: Material, bundle: bytes) -> bool:
    """Whether someone who trusts `bundle` would take the server's certificate."""
    server = certificate(material.server)
    for authority in x509.load_pem_x509_certificates(bundle):
        if authority.subject == server.issuer:
            server.verify_directly_issued_by(authority)
            return True
    return False


@pytest.fixture(scope="module")
def fresh() -> Material:
    """Made from nothing."""
    return renewed(Material(), NAMES, NOW)


def test_from_nothing_comes_all_that_is_needed(fresh: Material) -> None:
    """An authority, and a certificate of it for just these names, that servers alone may use."""
    held = certificate(fresh.server).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(name.value) for name in held} == set(NAMES)
    assert verifies(fresh, fresh.bundle)
    authority = certificate(fresh.ca).extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (authority.ca, authority.path_length) == (True, 0)
    assert fresh.next_ca == Pair()


KEPT = [timedelta(), LEAF_LASTS - LEAF_RENEWED_BEFORE - timedelta(minutes=1)]


@pytest.mark.parametrize("later", KEPT, ids=["at once", "just before it is due"])
def test_what_is_good_stays(fresh: Material, later: timedelta) -> None:
    """Nothing is made anew before its time: agents' connections would see another certificate for no reason."""
    assert renewed(fresh, NAMES, NOW + later) == fresh
    assert renewed(fresh, NAMES[:1], NOW + later) == fresh


@pytest.mark.parametrize(
    ("names", "later"),
    [
        pytest.param(NAMES, LEAF_LASTS - LEAF_RENEWED_BEFORE, id="due"),
        pytest.param(NAMES, LEAF_LASTS * 2, id="long over"),
        pytest.param((*NAMES, "10.77.2.12"), timedelta(), id="another node"),
    ],
)
def test_the_certificate_is_renewed_under_the_same_authority(
    fresh: Material, names: tuple[str, ...], later: timedelta
) -> None:
    """Whoever trusts what was published before trusts the new one, too."""
    after = renewed(fresh, names, NOW + later)
    assert after.ca == fresh.ca
    assert after.server != fresh.server
    assert verifies(after, fresh.bundle)
    assert certificate(after.server).not_valid_after_utc > NOW + later + LEAF_RENEWED_BEFORE


def test_a_new_authority_is_published_before_it_signs(fresh: Material) -> None:
    """Whatever was published a day ago verifies what is served now, through a whole change of authority."""
    at = NOW + CA_LASTS - CA_RENEWED_BEFORE - timedelta(days=1)
    material, published = renewed(fresh, NAMES, at), []
    authorities = set()
    for _ in range(100):
        at += timedelta(hours=6)
        material = renewed(material, NAMES, at)
        published.append(material.bundle)
        authorities.add(certificate(material.server).issuer)
        yesterday = published[max(0, len(published) - 1 - SETTLED // timedelta(hours=6))]
        assert verifies(material, yesterday)
        assert certificate(material.server).not_valid_after_utc > at
    assert len(authorities) == 2
    assert material.next_ca == Pair()
    assert len(x509.load_pem_x509_certificates(material.bundle)) == 1


BROKEN = [
    pytest.param(Material(ca=Pair(b"garbage", b"garbage")), id="no certificate"),
    pytest.param("another key", id="a key that is not its own"),
    pytest.param("another authority", id="a certificate of another authority"),
    pytest.param("no server", id="the certificate is missing"),
]


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_broken_is_mended(fresh: Material, broken: Material | str) -> None:
    """Whatever somebody wrote into the Secret, what comes out is whole."""
    other = renewed(Material(), NAMES, NOW)
    cases = {
        "another key": Material(ca=Pair(fresh.ca.certificate, other.ca.key), server=fresh.server),
        "another authority": Material(ca=fresh.ca, server=other.server),
        "no server": Material(ca=fresh.ca),
    }
    held = cases[broken] if isinstance(broken, str) else broken
    mended = renewed(held, NAMES, NOW)
    assert mended != held
    assert verifies(mended, mended.bundle)
    assert renewed(mended, NAMES, NOW) == mended
