"""One class per way to tell people; each sends a notice once, or says why not."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from contextlib import suppress
from typing import Any, Protocol

import httpx
import msgspec

from collectors.kit.clock import Clock
from collectors.kit.config import ConfigError
from pipeline.notify.alertmanager import AlertmanagerSender
from pipeline.notify.errors import TargetRefusedError, TargetUnavailableError, checked
from pipeline.notify.notice import Notice
from pipeline.notify.targets import (
    AlertmanagerTarget,
    AnyTarget,
    CommandTarget,
    MessageTarget,
    Secrets,
    WebhookTarget,
    message_urls,
)

_MOST_OUTPUT = 500


class Sender(Protocol):
    """Sends notices of one target, one at a time."""

    async def send(self, notice: Notice) -> None:
        """Returns once the target has it.

        Raises TargetUnavailableError where it may be tried again, and
        TargetRefusedError where that is of no use.
        """
        ...

    async def close(self) -> None:
        """Ends connections."""
        ...


def make_sender(target: AnyTarget, secrets: Secrets, clock: Clock) -> Sender:
    """The sender of a target.  Raises ConfigError where what it needs is not installed."""
    match target:
        case AlertmanagerTarget():
            return AlertmanagerSender(target, secrets, clock)
        case WebhookTarget():
            return WebhookSender(target, secrets, clock)
        case MessageTarget():
            return MessageSender(target, secrets)
        case CommandTarget():
            return CommandSender(target)


class WebhookSender:
    """POSTs a notice's body as JSON.

    Headers: `Idempotency-Key`, the same at every attempt; `X-Petawatch-Timestamp`
    in seconds; with a secret `X-Petawatch-Signature: sha256=HEX`, the HMAC-SHA256
    of timestamp, a dot and the body.
    """

    def __init__(self, target: WebhookTarget, secrets: Secrets, clock: Clock) -> None:
        self._target, self._secrets, self._clock = target, secrets, clock
        self._client = httpx.AsyncClient(timeout=target.timeout_s, follow_redirects=False)

    async def send(self, notice: Notice) -> None:
        """See Sender."""
        target = self._target
        body = msgspec.json.encode(notice.body())
        stamp = str(self._clock.wall_us() // 1_000_000)
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": notice.idempotency_key,
            "X-Petawatch-Timestamp": stamp,
        }
        try:
            url = target.url
            if target.url_file is not None:
                url = self._secrets.of_file(target.url_file)
            if target.secret_file is not None:
                secret = self._secrets.of_file(target.secret_file)
                headers["X-Petawatch-Signature"] = signature(secret, stamp, body)
        except ConfigError as error:
            raise TargetUnavailableError(str(error)) from error
        await checked(self._client.post(url, content=body, headers=headers))

    async def close(self) -> None:
        """See Sender."""
        await self._client.aclose()


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """What a receiver computes to check that a body is ours."""
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"sha256={digest.hexdigest()}"


class MessageSender:
    """Mail and chat through apprise; its addresses are read at each notice."""

    def __init__(self, target: MessageTarget, secrets: Secrets) -> None:
        try:
            import apprise  # noqa: PLC0415 -- only where it is used
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"target {target.name!r} needs apprise: install petawatch[notify]"
            ) from error
        self._apprise = apprise
        self._target, self._secrets = target, secrets

    async def send(self, notice: Notice) -> None:
        """See Sender."""
        try:
            urls = message_urls(self._target, self._secrets)
        except ConfigError as error:
            raise TargetUnavailableError(str(error)) from error
        try:
            async with asyncio.timeout(self._target.timeout_s):
                sent = await asyncio.to_thread(self._send, urls, notice)
        except TimeoutError as error:
            raise TargetUnavailableError("no answer in time") from error
        if not sent:
            # Apprise tells no reason, and its log may hold addresses.
            raise TargetUnavailableError("not all of its addresses took the message")

    def _send(self, urls: list[str], notice: Notice) -> bool:
        service: Any = self._apprise.Apprise()
        for url in urls:
            if not service.add(url):
                raise TargetRefusedError("one of its addresses is none that apprise knows")
        # Said to be plain text, its lines stay lines where a service wants HTML.
        plain = self._apprise.NotifyFormat.TEXT
        return bool(service.notify(title=notice.title, body=notice.text(), body_format=plain))

    async def close(self) -> None:
        """See Sender."""


class CommandSender:
    """Runs a program without a shell: the notice's body on its input, status 0 is success."""

    def __init__(self, target: CommandTarget) -> None:
        self._target = target

    async def send(self, notice: Notice) -> None:
        """See Sender."""
        body = msgspec.json.encode(notice.body())
        try:
            process = await asyncio.create_subprocess_exec(
                *self._target.argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        except OSError as error:
            raise TargetUnavailableError(f"cannot be started ({error.strerror})") from error
        try:
            async with asyncio.timeout(self._target.timeout_s):
                output, _ = await process.communicate(body)
        except TimeoutError as error:
            raise TargetUnavailableError("did not end in time") from error
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode != 0:
            said = output[-_MOST_OUTPUT:].decode(errors="replace").strip()
            raise TargetUnavailableError(f"ended with status {process.returncode}: {said}")

    async def close(self) -> None:
        """See Sender."""
