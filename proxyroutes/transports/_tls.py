"""TLS of a pool, made from its declared settings."""

from __future__ import annotations

import logging
import ssl

from proxyroutes.settings import TLS

__all__ = ["make_ssl_context"]

_logger = logging.getLogger("proxyroutes.transports")


def make_ssl_context(tls: TLS | None) -> ssl.SSLContext:
    """Make the context that a pool's connections share.

    Args:
        tls: The pool's settings; None trusts what the system trusts.

    Returns:
        The settings' own context where they have one, else a new one.

    Raises:
        OSError: If a file cannot be read, or, as ``ssl.SSLError``, does not hold what it should.
    """
    if tls is None:
        return ssl.create_default_context()
    if tls.context is not None:
        return tls.context
    context = ssl.create_default_context(cafile=tls.ca)
    if not tls.verify:
        _logger.warning("tls_verification_off certificates and host names are not checked")
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert is not None:
        context.load_cert_chain(tls.cert, tls.key)
    return context
