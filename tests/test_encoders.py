"""Sentence encoders as they are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lagamc.encoders import load_sentence_encoder
from lagamc.errors import LagamcError
from lagamc.hub import HubAccess
from lagamc.modeling import encoder_backbone
from tests.hub_server import Hub, Tree


def test_encoders_are_in_float32_and_without_dropout(tiny_t5_encoder: Path, tmp_path: Path) -> None:
    """However they were stored: T5 keeps the dropout of its attention as a number."""
    from sentence_transformers import SentenceTransformer

    stored = SentenceTransformer(str(tiny_t5_encoder), device="cpu")
    encoder_backbone(stored).config.dropout_rate = 0.4
    stored.bfloat16().save_pretrained(str(tmp_path), create_model_card=False)
    encoder = load_sentence_encoder(tmp_path).train()
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    features = encoder.preprocess(["The lamp is cracked."])
    first, second = (encoder(dict(features))["sentence_embedding"] for _ in range(2))
    assert torch.equal(first, second)


def test_code_of_a_sentence_encoder_never_runs(hub: Hub, tiny_t5_encoder: Path, tmp_path: Path) -> None:
    files: Tree = {
        str(p.relative_to(tiny_t5_encoder)): p.read_bytes() for p in tiny_t5_encoder.rglob("*") if p.is_file()
    }
    modules = json.loads(files["modules.json"])
    modules[0]["type"] = "strange.Strange"
    code = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
    hub.make("them/encoder", {**files, "modules.json": json.dumps(modules).encode(), "strange.py": code.encode()})
    with pytest.raises(LagamcError, match="it needs Python code of its own, which never runs here"):
        load_sentence_encoder("them/encoder", access=HubAccess(trust_remote_code=True))
    assert not (tmp_path / "ran").exists()
