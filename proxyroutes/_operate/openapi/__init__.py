"""The OpenAPI documents of upstreams, as part of the gateway's own."""
