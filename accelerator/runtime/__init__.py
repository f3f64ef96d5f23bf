"""The run: context, engine, loop, callbacks, checkpoints."""

COMPONENTS = {
    "engine": {
        "accelerate": "accelerator.runtime.engine.accelerate:Accelerate",
        "vanilla_torch": "accelerator.runtime.engine.vanilla_torch:VanillaTorch",
        "single_gpu": "accelerator.runtime.engine.single_gpu:SingleGPU",
    },
    "callback": {
        "accumulation_schedule": "accelerator.runtime.callbacks.schedules:AccumulationSchedule",
        "checkpoint": "accelerator.runtime.callbacks.checkpoint:CheckpointCallback",
        "early_stopping": "accelerator.runtime.callbacks.early_stopping:EarlyStopping",
        "ema": "accelerator.runtime.callbacks.averaging:EMA",
        "finite_loss": "accelerator.runtime.callbacks.always_on:FiniteLoss",
        "freeze": "accelerator.runtime.callbacks.schedules:Freeze",
        "generalization_gap": "accelerator.runtime.callbacks.monitors:GeneralizationGap",
        "gradient_norm": "accelerator.runtime.callbacks.monitors:GradientNorm",
        "lr_monitor": "accelerator.runtime.callbacks.monitors:LRMonitor",
        "max_time": "accelerator.runtime.callbacks.timer:MaxTime",
        "memory": "accelerator.runtime.callbacks.resources:Memory",
        "metric_logger": "accelerator.runtime.callbacks.logger:MetricLogger",
        "parameter_statistics": "accelerator.runtime.callbacks.monitors:ParameterStatistics",
        "pictures": "accelerator.runtime.callbacks.pictures:Pictures",
        "prediction_writer": "accelerator.runtime.callbacks.predictions:PredictionWriter",
        "progress": "accelerator.runtime.callbacks.progress:Progress",
        "sample_predictions": "accelerator.runtime.callbacks.predictions:SamplePredictions",
        "step_time": "accelerator.runtime.callbacks.resources:StepTime",
        "swa": "accelerator.runtime.callbacks.averaging:SWA",
        "throughput": "accelerator.runtime.callbacks.always_on:Throughput",
    },
    "acceleration": {
        "prune": "accelerator.acceleration.pruning:Prune",
        "quantize": "accelerator.acceleration.quantization:Quantize",
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
