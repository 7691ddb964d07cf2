"""HTTP in one thread, and in another the scheduler, which alone uses the devices."""

import math
import socket
import threading

import uvicorn

from star_jax.serve.app import Service

SPARE = 256  # connections that ask nothing now, or only how things are


class Server:
    """Serves on a socket, from `run` until `stop` is called, by whatever thread or signal."""

    def __init__(self, service: Service, listening: socket.socket):
        self._scheduler, self._socket = service.scheduler, listening
        limits = service.scheduler.limits
        config = uvicorn.Config(
            service.app(),
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="warning",
            limit_concurrency=SPARE + 2 * (limits.waiting + limits.answers),
            timeout_graceful_shutdown=math.ceil(limits.seconds),
        )
        self._http = uvicorn.Server(config)

    def run(self) -> None:
        """Answers until it is stopped, and requests under way are done. JAX runs in this thread."""
        thread = threading.Thread(target=self._serve, name="http")
        thread.start()
        try:
            self._scheduler.run()
        except BaseException:
            self.stop()  # nobody will answer what was asked
            raise
        finally:
            self.stop()
            thread.join()

    def stop(self) -> None:
        """Takes no new connections; what was asked is answered. Said again, it ends at once."""
        self._http.force_exit = self._http.should_exit
        self._http.should_exit = True

    def _serve(self) -> None:
        try:
            self._http.run(sockets=[self._socket])
        finally:
            self._scheduler.close()
