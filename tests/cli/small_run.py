"""A run of `accelerator train` that takes a fraction of a second."""

SMALL = [
    *("model=mlp", "model.hidden=[4]", "data.train=32", "data.val=8", "data.test=8", "data.grid=8", "tracking=none"),
    *("engine.threads=1", "trainer.max_epochs=1", "~callbacks.pictures", "~callbacks.progress"),
]
