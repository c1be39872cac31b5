"""An HTTP client for many short calls at once."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.request import getproxies

from memroute_agents.calls import CONNECT_S

if TYPE_CHECKING:
    import httpx

__all__ = ["open_client"]


def open_client(timeout_s: float, concurrency: int) -> httpx.AsyncClient:
    """A client that gives every call in flight a connection pool of its own.

    httpx's shared pool looks at every idle connection, with two system calls, whenever a call comes
    or goes: at 32 calls in flight that is most of a core. Where the environment names a proxy, the
    shared pool is used, because httpx routes through proxies only there.

    Args:
        timeout_s: Seconds between two pieces of an answer; connecting may take `CONNECT_S`.
        concurrency: Most calls in flight.
    """
    import httpx

    class OwnPools(httpx.AsyncBaseTransport):
        """Keeps as many one-connection transports as there ever were calls in flight."""

        def __init__(self) -> None:
            self._context = httpx.create_ssl_context()
            self._idle: list[httpx.AsyncHTTPTransport] = []

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if self._idle:
                transport = self._idle.pop()
            else:
                transport = httpx.AsyncHTTPTransport(verify=self._context)
            try:
                response = await transport.handle_async_request(request)
                try:
                    body = b"".join([part async for part in response.aiter_raw()])
                finally:
                    await response.aclose()
            finally:
                self._idle.append(transport)
            return httpx.Response(
                response.status_code,
                headers=response.headers,
                stream=httpx.ByteStream(body),
                extensions=response.extensions,
            )

        async def aclose(self) -> None:
            for transport in self._idle:
                await transport.aclose()

    timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_S))
    if getproxies():
        limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
        return httpx.AsyncClient(timeout=timeout, limits=limits, follow_redirects=True)
    return httpx.AsyncClient(timeout=timeout, transport=OwnPools(), follow_redirects=True)
