"""The tiny recipe with one task and one teacher: what compiles fastest of both stages."""

from tests.recipes import tiny


def get_config(text: str = ""):
    config = tiny.get_config(text)
    config.batch_size = config.eval_batch_size = 4
    config.tasks = {"depth": {}}
    config.model.width = 8
    config.teachers.pop("geometry", None)  # The methods without distillation have none.
    config.distill.steps = config.multitask.steps = 3
    config.distill.warmup_steps = 1
    config.multitask.eval_every = 0
    config.data.train_length = config.data.val_length = 4
    return config
