"""The lab's own certificate authority and the server certificates that it signs.

Keys are EC P-256 (made in under a millisecond); files are PEM, private keys readable by their owner alone.
Must not be used outside of a lab: there is no revocation, and the CA's key lies beside its certificate.
"""

import datetime
import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALIDITY_DAYS = 365


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Where a certificate and its private key are kept."""

    cert: Path
    key: Path


def make_ca(directory: Path | str, name: str = "ca") -> KeyPair:
    """Write NAME.crt and NAME.key of a new authority into the directory (made if absent)."""
    folder = Path(directory)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubereach lab CA")])
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
    certificate = (
        _builder(subject, subject, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _write(folder, name, certificate, key)


def issue(
    directory: Path | str,
    name: str,
    ips: Iterable[str] = (),
    dns_names: Iterable[str] = (),
    *,
    subject: tuple[str, str] | None = None,
    client: bool = False,
) -> KeyPair:
    """Write NAME.crt and NAME.key, a server's (or client's) certificate signed by the directory's `make_ca` authority.

    `subject` is (common name, organisation), which are user and group to Kubernetes; without it the name is `name`.

    Raises ValueError for a malformed address, TypeError for a foreign authority and OSError where the authority's
    files are missing.
    """
    folder = Path(directory)
    ca = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    ca_key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{folder / 'ca.key'} is not an EC key")
    names: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips]
    names += [x509.DNSName(dns_name) for dns_name in dns_names]
    key = ec.generate_private_key(ec.SECP256R1())
    common, organisation = subject or (name, "")
    entries = [x509.NameAttribute(NameOID.COMMON_NAME, common[:64])]
    if organisation:
        entries.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
    usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
    builder = (
        _builder(x509.Name(entries), ca.subject, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _write(folder, name, builder.sign(ca_key, hashes.SHA256()), key)


def _builder(subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        # An hour of grace: a lab's processes share one clock, a browser elsewhere does not.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=VALIDITY_DAYS))
    )


def _write(folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    pair = KeyPair(folder / f"{name}.crt", folder / f"{name}.key")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    descriptor = os.open(pair.key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(pem)
    pair.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return pair
