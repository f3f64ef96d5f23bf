"""A PyTorch training loop of one's own, with its record, hyperparameter search and pruning.

accelerator run  examples/config.yaml --train-fn examples/pytorch_example.py:train_model
accelerator tune examples/config.yaml --train-fn examples/pytorch_example.py:train_model --n-trials 10
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from accelerator.experiment import Experiment, ExperimentConfig, TrainingContext, TrainingResult
from accelerator.experiment.frameworks.pytorch import load_checkpoint, save_checkpoint


def train_model(ctx: TrainingContext) -> TrainingResult:
    """Train a small network on 1,797 scanned digits; the validation error decides."""
    lr, hidden = ctx.hyperparameters["lr"], ctx.hyperparameters["hidden"]
    images, labels = load_digits(return_X_y=True)
    x, x_val, y, y_val = (
        torch.as_tensor(part, device=ctx.device) for part in train_test_split(images / 16, labels, random_state=0)
    )
    x, x_val = x.float(), x_val.float()

    model = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10)).to(ctx.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    saved = load_checkpoint(ctx, model=model, optimizer=optimizer)
    start, best, best_path = (0, 1.0, None) if saved is None else (saved["epoch"] + 1, saved["best"], None)

    epoch = start
    for epoch in range(start, ctx.hyperparameters["epochs"]):
        for batch in torch.randperm(len(x)).split(64):
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.inference_mode():
            error = (model(x_val).argmax(1) != y_val).double().mean().item()
        ctx.tracker.log_metrics({"train_loss": loss, "val_error": error}, epoch)
        if error <= best:
            best, best_path = error, save_checkpoint(ctx, "best.pt", model=model)
        save_checkpoint(ctx, model=model, optimizer=optimizer, epoch=epoch, best=best)
        ctx.report(error, epoch)
        if ctx.should_stop:  # the study has seen better, or somebody pressed Ctrl-C
            break
    return TrainingResult(best, "val_error", best_model_path=best_path, epochs_completed=epoch + 1)


if __name__ == "__main__":
    config = ExperimentConfig(name="digits", hyperparameters={"lr": 0.003, "hidden": 64, "epochs": 10})
    print(Experiment(train_model, config).run().result)
