"""A small transformer whose neurons have places: values feed the output projection, queries and keys feed nothing."""

import torch
from torch import nn

import spatial

torch.manual_seed(0)
words = torch.randint(10, (512, 12))
labels = torch.stack([(words == 3).any(1), (words[:, 0] > words[:, -1])]).long()  # does 3 occur? is the first larger?
model = nn.Sequential(
    nn.Embedding(10, 32),
    nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True), num_layers=2),
    nn.Flatten(), nn.Linear(12 * 32, 4),
)  # fmt: skip
sheet = spatial.place(model, words[:2], norm="l1", per="neuron", transport=0.1, proximity=0.1)
print(sheet, *sheet.skipped[:2], sep="\n")
adam = torch.optim.Adam([{"params": model.parameters()}, {"params": sheet.parameters(), "lr": 0.02}], lr=2e-3)
for _ in range(100):
    loss = nn.functional.cross_entropy(model(words).view(-1, 2), labels.T.flatten()) + sheet.cost()
    adam.zero_grad(), loss.backward(), adam.step()
parts = sheet.split({"occurs": ("3", slice(0, 2)), "larger": ("3", slice(2, 4))})
for task, (name, part) in enumerate(parts.networks.items()):
    answers = [net(words).view(-1, 2, 2)[:, task].argmax(1) for net in (model, part)]
    print(name, *(f"{(answer == labels[task]).float().mean():.3f}" for answer in answers))
