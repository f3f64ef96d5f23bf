"""A Keras training with its record, hyperparameter search and pruning (pip install 'accelerator-platform[tensorflow]').

accelerator run  examples/config.yaml --train-fn examples/tensorflow_example.py:train_model
accelerator tune examples/config.yaml --train-fn examples/tensorflow_example.py:train_model --n-trials 10
"""

import keras
import tensorflow as tf
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from accelerator.experiment import Experiment, ExperimentConfig, TrainingContext, TrainingResult
from accelerator.experiment.frameworks.tensorflow import ReportCallback, save_checkpoint


def train_model(ctx: TrainingContext) -> TrainingResult:
    """Train a small network on 1,797 scanned digits; the validation error decides."""
    images, labels = load_digits(return_X_y=True)
    x, x_val, y, y_val = train_test_split(images.astype("float32") / 16, labels, random_state=0)
    with tf.device(ctx.device):
        model = keras.Sequential([keras.layers.Dense(ctx.hyperparameters["hidden"], "relu"), keras.layers.Dense(10)])
        model.compile(
            keras.optimizers.Adam(ctx.hyperparameters["lr"]),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        history = model.fit(
            x,
            y,
            batch_size=64,
            epochs=ctx.hyperparameters["epochs"],
            validation_data=(x_val, y_val),
            callbacks=[ReportCallback(ctx, monitor="val_loss")],  # logs, reports, stops when asked to
            verbose=0,
        )
    path = save_checkpoint(ctx, model, "model.keras")
    error = 1 - max(history.history["val_accuracy"])
    return TrainingResult(error, "val_error", best_model_path=path, epochs_completed=len(history.epoch))


if __name__ == "__main__":
    config = ExperimentConfig(name="digits", hyperparameters={"lr": 0.003, "hidden": 64, "epochs": 10})
    print(Experiment(train_model, config).run().result)
