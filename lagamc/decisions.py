"""From what speaks for the labels to the labels: calibrated probabilities and the thresholds they have to reach."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from scipy.special import expit, logit

from lagamc.artifact import ArtifactConfig
from lagamc.calibration import MINIMUM_POSITIVES, Calibration, expected_calibration_error, familiarity, fit_calibration
from lagamc.errors import LagamcError
from lagamc.scoring import SCORES
from lagamc.thresholds import GOALS, Thresholds, goal_rank, tune_thresholds, usual_goal, wanted_precision
from lagamc.unseen import NEARNESS, UNSEEN

logger = logging.getLogger(__name__)
UNTUNED = (
    "no thresholds were tuned, as its training was stopped before that or went another way: labels are given from a "
    "probability of one half on; tune it by `lagamc evaluate MODEL FILE --tune`"
)


class DecisionRules:
    """Which labels a text gets, given the log-odds of all labels.

    Args:
        config: with the thresholds and the calibration of a model.
        names: of the labels of the bank, in order.
        has_retrieval: whether the sources behind the first of the accurate log-odds are those of the fast ones.
    """

    def __init__(self, config: ArtifactConfig, names: Sequence[str], has_retrieval: bool):
        self.names, self.has_retrieval = list(names), has_retrieval
        self.scores = config.scores
        self.thresholds = Thresholds(**config.thresholds)
        self.tuned = {
            scores: {usual_goal(goal): Thresholds(**values) for goal, values in goals.items()}
            for scores, goals in config.tuned.items()
        }
        self.calibration = {scores: Calibration(**config.calibration.get(scores, {})) for scores in (*SCORES, UNSEEN)}
        self.familiar = familiarity(config.label_counts, self.names)
        self.untrained = [i for i, name in enumerate(self.names) if name in config.untrained]
        self.trained = [i for i, name in enumerate(self.names) if name not in config.untrained]
        # nearness is calibrated by labels that training rows have; without a row a label is rarer, by the rule of
        # succession, and of labels that were added later it is not known how frequent they are
        counts = config.label_counts
        usual = np.mean([count for count in counts.values() if count] or [0])
        self.rarity = np.array([-np.log1p(usual) if counts.get(self.names[i]) == 0 else 0.0 for i in self.untrained])
        for calibration in self.calibration.values():  # what was found out about the old wording of a label
            calibration.offsets = {k: v for k, v in calibration.offsets.items() if k not in config.untrained}

    def to_dict(self, unseen: Sequence[str] = ()) -> dict[str, Any]:
        """The fields of an `ArtifactConfig` that these rules stand for.

        Args:
            unseen: labels that were never trained; they get the threshold of such labels.
        """

        def fields(thresholds: Thresholds) -> dict[str, Any]:
            own = self.tuned.get(UNSEEN, {}).get(thresholds.goal)
            added = {} if own is None else dict.fromkeys(unseen, own.overall)
            return {**thresholds.to_dict(), "per_label": {**thresholds.per_label, **added}}

        return {
            "scores": self.scores,
            "thresholds": fields(self.thresholds),
            "tuned": {k: {goal: fields(t) for goal, t in goals.items()} for k, goals in self.tuned.items()},
            "calibration": {scores: c.to_dict() for scores, c in self.calibration.items()},
        }

    def joins_nearness(self, scores: str, sources: int) -> bool:
        """Whether `Background.score` under the trained encoder is joined with so many sources of log-odds."""
        return len(self.calibration[scores].weights) > sources

    def probabilities(
        self, evidence: np.ndarray, scores: str, near: np.ndarray | None = None, unseen: np.ndarray | None = None
    ) -> np.ndarray:
        """Probabilities, (rows, labels).

        The generator and retrieval were trained to give labels that no training row had, or that were added later, to
        no text: these are scored by a sentence encoder, or else by retrieval alone, where the model has that part.

        Args:
            evidence: (rows, labels, sources) log-odds.
            scores: the kind of scores that they are.
            near: (rows, labels) of `Background.score` under the trained encoder.
            unseen: (rows, labels) of the same for labels that were added later.

        Raises:
            LagamcError: they are not finite.
        """
        sources = [evidence]
        if near is not None and self.joins_nearness(scores, evidence.shape[-1]):
            sources.append(near[..., None])
        values = self.calibration[scores].apply(np.concatenate(sources, axis=-1), self.names, self.familiar)
        if self.untrained and unseen is not None and UNSEEN in self.tuned:
            own = self.calibration[UNSEEN].apply(unseen[:, self.untrained, None])
            values[:, self.untrained] = expit(logit(own) + self.rarity)
        elif self.untrained and scores == "accurate" and self.has_retrieval:
            values[:, self.untrained] = self.calibration["fast"].apply(evidence[:, self.untrained, 1:])
        if not np.isfinite(values).all():
            raise LagamcError("the model's scores are not finite: its weights are damaged; copy or pull it again")
        return values

    def limits(self, scores: str, goal: str | None, threshold: float | None, top_k: int | None) -> np.ndarray:
        """The probability from which on each label is given, (labels,).

        Args:
            scores: `accurate` or `fast`.
            goal: takes the thresholds tuned for it; None the default ones.
            threshold: one probability for all labels in place of tuned ones.
            top_k: alone, without the two above, every label is let through.

        Raises:
            LagamcError: goal and threshold are both given or are none, or no thresholds were tuned for the goal.
        """
        if threshold is not None:
            if goal is not None:
                raise LagamcError(f"threshold: {threshold!r} takes the place of tuned ones; leave out goal {goal!r}")
            if not isinstance(threshold, Real) or isinstance(threshold, bool) or not 0 <= threshold <= 1:
                raise LagamcError(f"threshold: expected a probability from 0 to 1, found {threshold!r}")
            return np.full(len(self.names), float(threshold))
        if goal is None and top_k is not None:
            return np.zeros(len(self.names))
        if goal is None and scores == self.scores:
            return self.thresholds.values(self.names)
        goal = usual_goal(self.thresholds.goal if goal is None else goal)
        tuned = self.tuned.get(scores, {})
        if goal not in tuned:
            raise LagamcError(
                f"goal: no thresholds of {scores} scores were tuned for {goal!r}, found {sorted(tuned) or 'none'}; "
                "tune them on labelled texts by `lagamc evaluate MODEL FILE --tune --goal GOAL`, or give a threshold"
            )
        return tuned[goal].values(self.names)

    def ranked(self, values: np.ndarray, limits: np.ndarray, top_k: int | None = None) -> list[int]:
        """Labels of one row, most probable first.

        Args:
            values: (labels,) probabilities.
            limits: (labels,) what they have to reach.
            top_k: at most so many.
        """
        return [int(i) for i in np.argsort(-values, kind="stable") if values[i] >= limits[i]][:top_k]

    def tune(self, evidence: Mapping[str, np.ndarray], true: np.ndarray, goal: str) -> dict[str, dict[str, float]]:
        """Fits calibration and thresholds to labelled rows.

        The better of accurate and fast scores for the goal becomes the default, the fast ones where they are equal.

        Args:
            evidence: kind of scores -> (rows, labels, sources) log-odds, and as `NEARNESS` and `UNSEEN` with one
                source what `Background.score` gives.
            true: (rows, labels), 0 or 1.
            goal: of the default thresholds; those for `GOALS` are tuned in any case.

        Returns:
            for each kind of scores the calibration error before and after, and the figure of the goal, on these rows.

        Raises:
            LagamcError: the rows suit no calibration, and the one that is there would be lost; nothing is changed.
        """
        trained, goals = self.trained, dict.fromkeys((goal, *GOALS))
        if given := [self.names[i] for i in self.untrained if true[:, i].any()]:
            logger.warning(
                "labels %s: no training row had them; the rows here tune their thresholds, not what scores them", given
            )
        if trained:  # what suits the labels that were trained has to do for the others
            names, some = [self.names[i] for i in trained], true[:, trained]
            self.calibration |= self._fitted(evidence, some)
            if not any(self.calibration[scores].weights for scores in SCORES):
                logger.warning(
                    "%d labels on %d texts are too few to calibrate on, or the model cannot tell them: probabilities "
                    "stay as they are, and thresholds are unsure",
                    int(some.sum()),
                    len(some),
                )
            scored = self.calibration[UNSEEN].apply(evidence[UNSEEN][:, trained])
            found = {g: tune_thresholds(scored, some, names, g) for g in goals}
            self.tuned[UNSEEN] = {g: Thresholds(g, t.overall) for g, t in found.items()}
        figures: dict[str, dict[str, float]] = {}
        ranks: dict[str, tuple[float, float]] = {}
        for scores in reversed(SCORES):  # of equal ones the fast
            before = Calibration().apply(evidence[scores])
            after = self.probabilities(evidence[scores], scores, evidence[NEARNESS][..., 0], evidence[UNSEEN][..., 0])
            self.tuned[scores] = {g: tune_thresholds(after, true, self.names, g) for g in goals}
            ranks[scores] = goal_rank(goal, after >= self.tuned[scores][goal].values(self.names), true)
            figures[scores] = {
                "ece_before": expected_calibration_error(before, true),
                "ece_after": expected_calibration_error(after, true),
                "goal": ranks[scores][1],
            }
        self.scores = max(ranks, key=lambda scores: ranks[scores])
        self.thresholds = self.tuned[self.scores][goal]
        reached, wanted = ranks[self.scores][0], wanted_precision(goal)
        if wanted is not None and reached < wanted:
            logger.warning("goal %s: not reached on these texts, the best precision there is %.4f", goal, reached)
        return figures

    def _fitted(self, evidence: Mapping[str, np.ndarray], true: np.ndarray) -> dict[str, Calibration]:
        """Calibrations of the trained labels; see `tune`.

        Raises:
            LagamcError: the rows tell nothing, and there is a calibration already, which would be lost.
        """
        names, familiar = [self.names[i] for i in self.trained], self.familiar
        found = {UNSEEN: fit_calibration(evidence[UNSEEN][:, self.trained], true)}
        if not found[UNSEEN].weights:
            found[UNSEEN] = self.calibration[UNSEEN]
        for scores in SCORES:
            joined = np.concatenate([evidence[scores], evidence[NEARNESS]], axis=-1)[:, self.trained]
            of_trained = None if familiar is None else familiar[self.trained]
            found[scores] = fit_calibration(joined, true, names, of_trained)
            found[scores].drop_last_if_unused()
        if any(self.calibration[scores].weights and not found[scores].weights for scores in SCORES):
            raise LagamcError(
                f"tune: expected texts with {MINIMUM_POSITIVES} labels in all at least, added ones not counted, and "
                f"more evidence where a label is true than elsewhere; found {int(true.sum())} labels on {len(true)} "
                "texts, by which the model would lose its calibration"
            )
        return found
