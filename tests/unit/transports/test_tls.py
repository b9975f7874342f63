"""TLS settings as an ``ssl.SSLContext``."""

import logging
import ssl

import pytest
import trustme

from proxyroutes.settings import TLS
from proxyroutes.transports._tls import make_ssl_context


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority that only tests trust."""
    return trustme.CA()


@pytest.mark.parametrize("tls", [None, TLS()], ids=["none", "default"])
@pytest.mark.requirement("S-35")
def test_the_default_checks_certificates_and_names(tls):
    """Against what the system trusts."""
    context = make_ssl_context(tls)

    assert (ssl.CERT_REQUIRED, True) == (context.verify_mode, context.check_hostname)


def test_a_file_replaces_what_the_system_trusts(authority, tmp_path):
    """Only the certificates in it count."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = make_ssl_context(TLS(ca=tmp_path / "ca.pem"))

    assert 1 == len(context.get_ca_certs())


@pytest.mark.requirement("S-35")
def test_checks_that_are_off_are_logged(caplog):
    """At each start."""
    with caplog.at_level(logging.WARNING, "proxyroutes.transports"):
        context = make_ssl_context(TLS(verify=False))

    assert (ssl.CERT_NONE, False) == (context.verify_mode, context.check_hostname)
    assert ["tls_verification_off certificates and host names are not checked"] == caplog.messages


def test_a_client_certificate_is_loaded(authority, tmp_path):
    """From one file or from two."""
    certificate = authority.issue_cert("client.test")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    make_ssl_context(TLS(cert=tmp_path / "both.pem"))
    make_ssl_context(TLS(cert=tmp_path / "cert.pem", key=tmp_path / "key.pem"))
    with pytest.raises(ssl.SSLError):
        make_ssl_context(TLS(cert=tmp_path / "cert.pem"))


def test_a_ready_context_is_taken_as_it_is():
    """Nothing else of the settings counts then."""
    context = ssl.create_default_context()

    assert context is make_ssl_context(TLS(context=context, verify=False))
