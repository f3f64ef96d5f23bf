"""The run: context, engine, loop, callbacks, checkpoints."""

COMPONENTS = {
    "engine": {"vanilla_torch": "accelerator.runtime.engine.vanilla_torch:VanillaTorch"},
    "callback": {
        "checkpoint": "accelerator.runtime.callbacks.checkpoint:CheckpointCallback",
        "early_stopping": "accelerator.runtime.callbacks.early_stopping:EarlyStopping",
        "finite_loss": "accelerator.runtime.callbacks.always_on:FiniteLoss",
        "metric_logger": "accelerator.runtime.callbacks.logger:MetricLogger",
        "pictures": "accelerator.runtime.callbacks.pictures:Pictures",
        "progress": "accelerator.runtime.callbacks.progress:Progress",
        "throughput": "accelerator.runtime.callbacks.always_on:Throughput",
    },
    "multilevel": {
        "single": "accelerator.multilevel.method:Single",
        "cascade": "accelerator.multilevel.method:Cascade",
        "v_cycle": "accelerator.multilevel.method:VCycle",
        "w_cycle": "accelerator.multilevel.method:WCycle",
        "f_cycle": "accelerator.multilevel.method:FCycle",
        "fmg": "accelerator.multilevel.method:FullMultigrid",
    },
}
