"""The bodies of requests, one by one and together as long as they may be."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.requests import Request

from star_jax.serve.errors import Problem, overloaded

TOGETHER = 2**27  # bytes of all; JSON of many small values takes 50 times its bytes when read


class Bodies:
    """Reads bodies, in one event loop. one: bytes of each, at most. together: of all, at most."""

    def __init__(self, one: int, *, together: int | None = None):
        self.one = one
        self._room = max(TOGETHER, one) if together is None else together

    @contextlib.asynccontextmanager
    async def read(self, request: Request, *, seconds: float) -> AsyncIterator[bytes]:
        """The request's body; its bytes count until the block ends.

        Raises:
          Problem: it is too long, or does not come in time, or too many others are here.
        """
        whole = bytearray()
        try:
            await self._fill(whole, request, seconds)
            yield bytes(whole)
        finally:
            self._room += len(whole)

    async def _fill(self, whole: bytearray, request: Request, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                async for chunk in request.stream():
                    if len(whole) + len(chunk) > self.one:
                        raise Problem(413, f"the request has more than {self.one} bytes")
                    if len(chunk) > self._room:
                        raise overloaded("too many long requests are read; come again later")
                    self._room -= len(chunk)
                    whole += chunk
        except TimeoutError as e:
            raise Problem(408, f"the request did not come within {seconds:g} s") from e
