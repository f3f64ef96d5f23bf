"""Components that belong to no single field: general networks, losses, transforms and data readers."""

COMPONENTS: dict[str, dict[str, str]] = {
    "model": {
        "mlp": "domain.cross.model.mlp:MLP",
        "multilevel_mlp": "domain.cross.model.mlp:MLP",
    },
    "data": {"arrays": "domain.cross.data.arrays:arrays"},
    "loss": {
        "mse": "domain.cross.loss.regression:mse",
        "mae": "domain.cross.loss.regression:mae",
        "huber": "domain.cross.loss.regression:huber",
        "relative_l2": "domain.cross.loss.regression:relative_l2",
        "cross_entropy": "domain.cross.loss.classification:CrossEntropy",
        "weighted_sum": "domain.cross.loss.weighted_sum:WeightedSum",
    },
    "transform": {
        "normalize": "domain.cross.transform.normalize:Normalize",
        "noise": "domain.cross.transform.noise:Noise",
    },
    "metric": {
        "accuracy": "domain.cross.metric.classification:Accuracy",
        "r2": "domain.cross.metric.regression:R2",
    },
}
