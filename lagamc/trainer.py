"""`LagamcTrainer`: a `Seq2SeqTrainer` for the hybrid loss (paper, section 5.3)."""

from __future__ import annotations

import logging
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import CommitInfo, HfApi
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import EvalPrediction, Seq2SeqTrainer, Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from lagamc.artifact import ArtifactConfig, copy_artifact, save_artifact
from lagamc.cards import render_card
from lagamc.decoding import DescriptionDecoder
from lagamc.encoding import LOSS_IGNORE, pad
from lagamc.errors import LagamcError
from lagamc.hub import HubAccess
from lagamc.lengths import EpochLengthSampler
from lagamc.loading import load_weights
from lagamc.matcher import LabelMatcher
from lagamc.metrics import binarise, label_metrics, multi_label_metrics
from lagamc.modeling import LagamcModel, LagamcOutput
from lagamc.optimization import check_resumed, explained, lasting_settings, other_optimizer, weight_groups
from lagamc.progress import replace_progress_bar
from lagamc.publishing import COPY_PREFIX, create_repo, publish
from lagamc.training_args import LagamcTrainingArguments, suited_attention

# those of the text's pieces are there where the sentence encoder reads it
MODEL_INPUTS = (
    *("input_ids", "attention_mask", "labels", "label_index", "decisions", "truth"),
    *("text_pieces", "text_lengths"),
)
COLLAPSE_LIMIT = 0.9

logger = logging.getLogger(__name__)


class LagamcTrainer(Seq2SeqTrainer):
    """Trains generator, sentence encoder and lambda together.

    `compute_loss` combines the components that the model's `forward` returns; they are logged beside the loss. In
    evaluation the responses are generated and `compute_metrics` gets them with the true label sets.

    Args:
        model: generator, sentence encoder and lambda.
        args: training arguments.
        artifact_config: written with every checkpoint.
        settings: the other arguments of `Seq2SeqTrainer`.
    """

    model: LagamcModel
    args: LagamcTrainingArguments
    hub_model_id: Any
    push_in_progress: Any

    def __init__(
        self, model: LagamcModel, args: LagamcTrainingArguments, artifact_config: ArtifactConfig, **settings: Any
    ):
        super().__init__(model=model, args=args, **settings)
        # the model's `forward` does not normalise by the number of items: without this the loss is scaled twice
        self.model_accepts_loss_kwargs = False
        self.artifact_config = artifact_config
        replace_progress_bar(self)
        self.artifact_config.figures["model_id"] = self.hub_model_id
        self._decoder: DescriptionDecoder | None = None  # of one evaluation
        self._components: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    # the loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The hybrid loss of equation 1, averaged over the rows; the retrieval term is added to its cross-entropy."""
        self.model.anneal(self.state.global_step / max(1, self.state.max_steps))
        outputs: LagamcOutput = model(**{name: inputs[name] for name in MODEL_INPUTS if name in inputs})
        assert outputs.cross_entropy is not None
        assert outputs.semantic is not None
        assert outputs.retrieval is not None
        assert outputs.decision_loss is not None
        supervised = outputs.cross_entropy + self.model.settings.retrieval_weight * outputs.retrieval
        if self.model.settings.semantic_form == "none":
            # lambda belongs to a sum of two terms; it and the encoder stay in the graph for DistributedDataParallel
            unused = [*self.model.balance.parameters()]
            if self.model.retrieval is None:
                unused += self.model.sentence_encoder.parameters()
            loss = supervised + sum((p.sum() * 0 for p in unused if p.requires_grad), torch.tensor(0.0))
        else:
            loss = self.model.balance(supervised, outputs.semantic)
        if not torch.isfinite(loss):
            raise LagamcError(
                f"the loss is not finite (cross-entropy {outputs.cross_entropy.item()}, semantic "
                f"{outputs.semantic.item()}, retrieval {outputs.retrieval.item()}) at step {self.state.global_step} "
                f"on rows {inputs['row'].tolist()}; lower the learning rate, or train without mixed precision"
            )
        components = self._components["train" if model.training else "eval"]
        components["cross_entropy"].append(float(outputs.cross_entropy.detach()))
        components["semantic"].append(float(outputs.semantic.detach()))
        components["retrieval"].append(float(outputs.retrieval.detach()))
        components["decision_loss"].append(float(outputs.decision_loss))
        return (loss, outputs) if return_outputs else loss

    def compute_loss_context_manager(self) -> ExitStack:
        """With the attention that suits the precision."""
        contexts = super().compute_loss_context_manager()
        contexts.enter_context(suited_attention(self.args))
        return contexts

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds lambda, the components (means over all processes since the last line), in evaluation the collapse."""
        mode = "eval" if any(name.startswith("eval_") for name in logs) else "train"
        prefix = "eval_" if mode == "eval" else ""
        if mode == "eval" or "loss" in logs:
            for name, values in self._components[mode].items():
                own = torch.tensor(np.mean(values), dtype=torch.float32, device=self.args.device)
                logs[prefix + name] = round(float(self.accelerator.reduce(own, "mean")), 6)
            self._components[mode].clear()
            if self.model.settings.final_temperature is not None:
                logs[prefix + "temperature"] = round(self.model.temperature, 6)
            logs[prefix + "lambda"] = round(float(self.model.balance.value.detach()), 6)
        if mode == "eval":
            logs["eval_collapse"] = round(self.model.collapse(), 4)
            if logs["eval_collapse"] > COLLAPSE_LIMIT:
                logger.warning(collapse_message(logs["eval_collapse"]))
        super().log(logs, start_time)

    # learning rates

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As in `Trainer`, over `weight_groups`; raises LagamcError where its settings do not suit."""
        if self.optimizer is None:
            target: Any = self.model if model is None else model
            groups = weight_groups(target, self.args, self.get_decay_parameter_names(target))
            with explained("optim", self.args.optim):
                kind, settings = self.get_optimizer_cls_and_kwargs(self.args, target)
                self.optimizer = kind(groups, **settings)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """As in `Trainer`; raises LagamcError where its settings do not suit."""
        with explained("lr_scheduler_type", self.args.lr_scheduler_type):
            return super().create_scheduler(num_training_steps, optimizer)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As in `Trainer`, which would take the settings of the checkpoint without a word."""
        asked = lasting_settings(self.optimizer)
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except (ValueError, KeyError, RuntimeError) as error:
            raise other_optimizer(str(checkpoint), str(error)) from error
        check_resumed(asked, lasting_settings(self.optimizer), str(checkpoint))

    # evaluation

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As in `Trainer`: repeated rows that fill up the last batch of several processes are dropped."""
        self._components["eval"].clear()
        self._decoder = None  # the weights have changed
        with self.model.descriptions.keeping_bank():
            return Trainer.evaluate(self, *args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """As in `Trainer`, see `evaluate`."""
        self._decoder = None
        with self.model.descriptions.keeping_bank():
            return Trainer.predict(self, *args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """The Trainer's, but an epoch that is gone on with keeps its order."""
        sampler = super()._get_train_sampler(train_dataset)
        if not isinstance(sampler, LengthGroupedSampler):
            return sampler
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return EpochLengthSampler(sampler.batch_size, sampler.lengths, seed, lambda: int(self.state.epoch or 0))

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Every row, also where training drops the last rows of an epoch."""
        with self._arguments(dataloader_drop_last=False):
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """Every row as they come: `predict` returns them in the order of the batches, and by length it is another."""
        with self._arguments(dataloader_drop_last=False, train_sampling_strategy="sequential"):
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _arguments(self, **others: Any) -> Iterator[None]:
        """Other training arguments for a while."""
        kept = {name: getattr(self.args, name) for name in others}
        try:
            for name, value in others.items():
                setattr(self.args, name, value)
            yield
        finally:
            for name, value in kept.items():
                setattr(self.args, name, value)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **generation_settings: Any,
    ) -> Any:
        """The hybrid loss, the generated tokens and the true label sets of a batch."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs).detach()
        if prediction_loss_only:
            return loss, None, None
        return loss, self._written(inputs, generation_settings), inputs["truth"]

    @torch.no_grad()
    def _written(self, inputs: dict[str, Any], generation_settings: dict[str, Any]) -> Tensor:
        """Tokens of the responses to a batch, (rows, tokens)."""
        longest, beams = self.artifact_config.max_response_length, self.args.generation_num_beams or 1
        if beams == 1 and not generation_settings:
            self._decoder = self._decoder or DescriptionDecoder(self.model, max_new_tokens=longest)
            bank = None if self.model.retrieval is None else self.model.encode_bank()
            reading = self.model.backbone.read(inputs["input_ids"], inputs["attention_mask"])
            rows = self._decoder.decode(reading, self.model.retrieve(reading, bank))
            return pad(rows, LOSS_IGNORE).to(inputs["input_ids"].device)
        settings = {"max_new_tokens": longest, "num_beams": beams, "do_sample": False, **generation_settings}
        return self.model.generate(inputs["input_ids"], inputs["attention_mask"], **settings)

    # checkpoints

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.args.should_save:
            save_artifact(self.model, output_dir or str(self.args.output_dir), self.artifact_config, render_card)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_weights(self.model, resume_from_checkpoint)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Of equal checkpoints the later is better: with few rows the scores improve while what is written stays."""
        if metrics.get(f"eval_{self.args.metric_for_best_model}") == self.state.best_metric:
            self.state.best_metric = None
        return super()._determine_best_metric(metrics, trial)

    def _load_best_model(self) -> None:
        load_weights(self.model, str(self.state.best_model_checkpoint))

    # the Hub: the base class would send the whole output folder, texts and a pickle with the token included

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Makes the repo, before anything is trained."""
        if self.is_world_process_zero():
            name = self.args.hub_model_id or Path(str(self.args.output_dir)).absolute().name
            private = self.args.hub_private_repo if private is None else private
            self.hub_model_id = create_repo(name, private, self.args.hub_revision, self._access(token))
            self.push_in_progress = None

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Saves the model and sends what belongs to it; see `lagamc.publishing.publish`."""
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
            self.artifact_config.figures["model_id"] = self.hub_model_id
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        send = partial(self.publish, self.args.output_dir, commit_message, revision=revision, token=token)
        return send() if blocking else HfApi().run_as_future(send)

    def publish(self, folder: Any, message: str | None, below: str = "", **settings: Any) -> CommitInfo:
        """Sends the published files of a folder to the repo of this run."""
        revision = settings.get("revision") or self.args.hub_revision
        access = self._access(settings.get("token"))
        return publish(folder, str(self.hub_model_id), revision, message or "End of training", below, access)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Sends the model of a checkpoint while the training goes on; never what only resuming needs."""
        strategy = self.args.hub_strategy
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if not self.is_world_process_zero() or strategy == HubStrategy.END or (busy and not self.args.hub_always_push):
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        # a copy: the checkpoint may be removed before it is sent
        copy = tempfile.TemporaryDirectory(prefix=COPY_PREFIX, dir=self.args.output_dir)
        copy_artifact(checkpoint_folder, copy.name)
        message = f"Training in progress, step {self.state.global_step}"
        places = [""]
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            places.append("last-checkpoint" if strategy == HubStrategy.CHECKPOINT else Path(checkpoint_folder).name)

        def send() -> None:
            with copy:
                for below in places:
                    self.publish(copy.name, message, below)

        job = HfApi().run_as_future(send)
        job.add_done_callback(_warn_of_failed_push)
        jobs: Any = [*(self.push_in_progress.jobs if busy else []), job]
        self.push_in_progress = PushInProgress(jobs)

    def _access(self, token: str | None = None) -> HubAccess:
        return HubAccess(token or self.args.hub_token)


def _warn_of_failed_push(job: Future[None]) -> None:
    error = job.exception()
    if error is not None:
        logger.warning("a checkpoint was not pushed, the training goes on: %s", error)


def collapse_message(figure: float) -> str:
    """What to say when different descriptions have a mean cosine beyond the limit."""
    return (
        f"the sentence encoder has collapsed: different descriptions have a mean cosine of {figure:.2f}; lower "
        "sentence_encoder_learning_rate, or use --semantic_form contrastive or a retrieval_weight"
    )


def build_compute_metrics(
    model: LagamcModel, minimum_similarity: float | None = None
) -> Callable[[EvalPrediction], dict[str, Any]]:
    """`compute_metrics` for the trainer: decodes, runs the label matcher under the trained encoder, counts.

    Returns:
        a function whose figures are micro and macro F1 and the rest of `MultiLabelMetric`, and `f1_LABEL` per label.
    """

    def compute_metrics(prediction: EvalPrediction) -> dict[str, Any]:
        bank = model.codec.bank
        with model.evaluating():
            matcher = LabelMatcher(bank, model.sentence_encoder, minimum_similarity, model.codec.round_trip)
            named = matcher.labels(model.response_texts(np.asarray(prediction.predictions)))
        predicted = binarise([bank.index(row) for row in named], len(bank))
        true = np.asarray(prediction.label_ids)
        figures: dict[str, Any] = multi_label_metrics(predicted, true)
        for name, values in label_metrics(predicted, true, bank.names).items():
            figures[f"f1_{name}"] = values["f1"]
        return figures

    return compute_metrics
