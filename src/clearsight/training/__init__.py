"""Fine-tuning with LoRA on clusters of pairs: InfoNCE, GradCache, several processes, complete checkpoints."""

from clearsight.training.loop import Row, Trained, Training, train
from clearsight.training.settings import TrainSettings

__all__ = ["Row", "TrainSettings", "Trained", "Training", "train"]
