"""Fine-tuning with LoRA on clusters of pairs: InfoNCE, GradCache, several processes, complete checkpoints."""

from clearsight.training.loop import Trained, train
from clearsight.training.settings import TrainSettings
from clearsight.training.trainer import Row, Training

__all__ = ["Row", "TrainSettings", "Trained", "Training", "train"]
