"""The controller's own certificate authority and server certificate, and when they are made anew. Pure: no files.

Agents trust what the ConfigMap publishes. A mounted ConfigMap is refreshed within two minutes, so a new authority is
published for SETTLED before anything is signed by it: no agent ever meets a certificate that it cannot verify.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_LASTS: Final = timedelta(days=3650)
CA_RENEWED_BEFORE: Final = timedelta(days=365)
LEAF_LASTS: Final = timedelta(days=90)
LEAF_RENEWED_BEFORE: Final = timedelta(days=30)
SETTLED: Final = timedelta(days=1)
# Clocks of nodes differ.
GRACE: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, both PEM."""

    certificate: bytes = b""
    key: bytes = b""

    def read(self) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None:
        """Both decoded, None where they are missing, broken or do not belong together."""
        try:
            certificate = x509.load_pem_x509_certificate(self.certificate)
            key = serialization.load_pem_private_key(self.key, password=None)
        except (ValueError, TypeError):
            return None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
            return None
        return certificate, key


@dataclass(frozen=True, slots=True)
class Material:
    """What the Secret holds. `next_ca` is published but signs nothing yet; empty most of the time."""

    ca: Pair = Pair()
    next_ca: Pair = Pair()
    server: Pair = Pair()

    @property
    def bundle(self) -> bytes:
        """What agents trust."""
        return self.ca.certificate + self.next_ca.certificate


def renewed(held: Material, names: Sequence[str], now: datetime | None = None) -> Material:
    """The same, or what takes its place: whole, valid for `names` (addresses and DNS names) and not about to end."""
    at = now or datetime.now(UTC)
    material = _with_authority(held, at)
    return material if _serves(material, names, at) else replace(material, server=_issue(material.ca, names, at))


def _with_authority(held: Material, at: datetime) -> Material:
    following = held.next_ca.read()
    current = held.ca.read()
    if current is None or current[0].not_valid_after_utc <= at:
        return Material(ca=_authority(at))
    if following is not None and following[0].not_valid_before_utc + GRACE + SETTLED <= at:
        return Material(ca=held.next_ca, server=held.server)
    if following is None and current[0].not_valid_after_utc - CA_RENEWED_BEFORE <= at:
        return replace(held, next_ca=_authority(at))
    return held if following is not None else replace(held, next_ca=Pair())


def _serves(material: Material, names: Sequence[str], at: datetime) -> bool:
    authority, server = material.ca.read(), material.server.read()
    if authority is None or server is None or server[0].not_valid_after_utc - LEAF_RENEWED_BEFORE <= at:
        return False
    try:
        server[0].verify_directly_issued_by(authority[0])
        held = server[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return set(_names(names)) <= set(held)


def _names(names: Sequence[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in names:
        address = _address(name)
        found.append(x509.IPAddress(address) if address is not None else x509.DNSName(name))
    return found


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _authority(at: datetime) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    # Told apart by its date, since two of them are trusted side by side while one follows the other.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"kubereach CA {at:%Y-%m-%d %H:%M:%S}")])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        _builder(name, name, key.public_key(), at, CA_LASTS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _pair(builder, key, key)


def _issue(authority: Pair, names: Sequence[str], at: datetime) -> Pair:
    read = authority.read()
    assert read is not None
    ca, ca_key = read
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubereach controller")])
    ends = min(LEAF_LASTS, ca.not_valid_after_utc - at)
    builder = (
        _builder(subject, ca.subject, key.public_key(), at, ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName(_names(names)), critical=False)
    )
    return _pair(builder, key, ca_key)


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, at: datetime, lasts: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - GRACE)
        .not_valid_after(at + lasts)
    )


def _pair(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey
) -> Pair:
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    certificate = builder.sign(signer, hashes.SHA256())
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), pem)
