"""`lagamc serve`: puts the page to try a model on an address, for this machine alone by default."""

from __future__ import annotations

import ipaddress
import os
import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lagamc.app import MAX_CHARACTERS, MAX_UPLOAD, STYLE, LabelPage, theme
from lagamc.artifact import find_artifact
from lagamc.checkpoints import REPORT_DATA_FOLDER
from lagamc.classifier import LagamcClassifier
from lagamc.errors import LagamcError
from lagamc.rows import read_rows

if TYPE_CHECKING:
    import gradio as gr

EXAMPLES = 5
LOCAL_HOSTS = ["127.0.0.1", "localhost", "[::1]"]
HEADERS = {
    # gradio builds its page by inline scripts and templates; whatever they are, they reach this server alone
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def example_texts(folder: str | Path, file: str | None = None) -> list[str]:
    """Texts for the page: the first of a file, or of the measured rows that a run left in its folder.

    Args:
        folder: of the model.
        file: JSONL, CSV or Parquet with a column `text`; None takes the run's rows, if there are any.

    Raises:
        LagamcError: the file cannot be read or has no such column.
    """
    found = [Path(folder) / REPORT_DATA_FOLDER / f"{split}.jsonl" for split in ("test", "dev")]
    path = Path(file) if file else next((place for place in found if place.is_file()), None)
    if path is None:
        return []
    texts = []
    for number, row in islice(read_rows(path), EXAMPLES):
        if not isinstance(row.get("text"), str):
            raise LagamcError(f"{path}, line {number}: expected a column 'text' with the text, found {sorted(row)}")
        texts.append(row["text"][:MAX_CHARACTERS])
    return texts


class _Headers:
    """Adds the security headers to every answer."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, with_headers)


def is_local(host: str) -> bool:
    """Whether a host name or address is that of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def launch(page: gr.Blocks, host: str = "127.0.0.1", port: int = 7860) -> str:
    """Starts the page in threads of its own.

    Args:
        page: as `LabelPage.build` made it.
        host: address to listen on.
        port: to listen on.

    Returns:
        the address of the page.

    Raises:
        LagamcError: the address cannot be listened on.
    """
    if ":" in host:
        raise LagamcError(f"host: expected an IPv4 address or a name, found {host!r}")
    # gradio asks its own server whether it answers: never by way of a proxy
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = ",".join(
        filter(None, [os.environ.get("NO_PROXY"), os.environ.get("no_proxy"), "localhost,127.0.0.1", host])
    )
    # a page of another site must not reach this one under a name of its own that points here
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=LOCAL_HOSTS if is_local(host) else ["*"])]
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            show_error=False,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            max_file_size=MAX_UPLOAD,
            app_kwargs={"middleware": [Middleware(_Headers), *middleware]},
            css=STYLE,
            theme=theme(),
        )
    except OSError as error:
        raise LagamcError(
            f"{host}:{port} cannot be listened on; is another page there? Name another --port, or another --host"
        ) from error
    return address


def serve(
    model: str,
    host: str = "127.0.0.1",
    port: int = 7860,
    device: str | None = None,
    examples: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Shows the page of a model until it is stopped.

    Args:
        model: output folder of a run, `you/name` or `you/name@revision`.
        host: address to listen on.
        port: to listen on.
        device: where to compute.
        examples: file of texts to choose from.
        trust_remote_code: whether Python code that comes with the base model may run.

    Raises:
        LagamcError: the model or the examples cannot be read, or the address not be listened on.
    """
    given = None if examples is None else example_texts("", examples)  # before anything is fetched
    source = find_artifact(model)
    texts = example_texts(source.folder) if given is None else given
    classifier = LagamcClassifier.from_pretrained(source.folder, device, trust_remote_code=trust_remote_code)
    title = f"LAGAMC: {source if source.commit else source.folder.resolve().name}"
    with tempfile.TemporaryDirectory(prefix="lagamc-") as folder:  # uploads and predictions go when the page does
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = LabelPage(classifier, texts, title).build()
        address = launch(page, host, port)
        if not is_local(host):
            print(f"warning: everyone who reaches {host}:{port} can use this page, there is no password")
        print(f"the page is at {address} (stop it with Ctrl-C)", flush=True)
        page.block_thread()
