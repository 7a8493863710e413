"""The tiny recipe with one task and one teacher: what compiles fastest of both stages."""

from tests.recipes import tiny


def get_config(text: str = ""):
    config = tiny.get_config(text)
    config.batch_size = config.eval_batch_size = 4
    config.tasks = {"depth": {}}
    config.model.width = 8
    if config.distill.steps:  # Methods without distillation have no teachers.
        del config.teachers.geometry
        config.distill.steps, config.distill.warmup_steps = 3, 1
    config.multitask.steps = 3
    config.multitask.eval_every = 0
    config.data.train_length = config.data.val_length = 4
    return config
