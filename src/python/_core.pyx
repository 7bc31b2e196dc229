# kacore._core: the one compiled module. Each .pxi is a room of its own; they are compiled together so that
# calls between them are C calls. Order: each may use those before it.
from ka cimport *

include "threads.pxi"
include "errors.pxi"
include "head.pxi"
include "policy.pxi"
include "counters.pxi"
include "table.pxi"
include "pools.pxi"
include "replay.pxi"
include "access.pxi"
include "files.pxi"
include "request_id.pxi"
include "exchange.pxi"
include "alike.pxi"
include "spool.pxi"
include "content.pxi"
include "proxies.pxi"
include "tls.pxi"
include "driver.pxi"
include "carrier.pxi"
include "tunnel.pxi"
include "frames.pxi"
include "handler.pxi"
include "asgi.pxi"
include "websocket.pxi"
include "environ.pxi"
include "wsgi.pxi"
include "transport_protocol.pxi"
include "transports.pxi"
include "hosted.pxi"

# Always last: engine.pxi where there is epoll, else engine_absent.pxi. setup.py writes it and says why.
include "engine_here.pxi"

HTTP2 = True   # there is HTTP/2 in this build

# What the stub describes; the other classes are the parts of these.
__all__ = [
    "AccessEntry", "AsgiApplication", "COUNTERS_BYTES", "ClientGone", "ConnectionTable", "EndOfMessage",
    "Engine", "FrameReader", "HTTP2", "HandlerApplication", "Head", "HostedAsgiApplication", "HostedWsgiApplication",
    "KacoreError", "Limits", "LocalError", "MAX_WAITING", "PeerError",
    "ProtocolApplication", "Request", "RequestParser", "Response", "Runner", "Stream", "TransportProtocol", "Transports",
    "Tunnel", "Upgrade", "Verdict", "WebSocketCore", "WsgiApplication", "has_epoll", "make_policies_by", "parse_head",
    "parse_parts", "read_gauges",
    "refuse_new_connections", "return_large_blocks", "set_simd_variant", "settle_counters", "simd_variant", "simd_variants",
    "sum_counters", "ClientPools", "Replay",
]
