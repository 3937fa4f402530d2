"""A network of one's own with two heads: charge it for its wires, train it, cut it into one network per task."""

from collections import OrderedDict

import torch
from torch import nn

import spatial


class TwoHeads(nn.Sequential):
    def forward(self, x):
        return torch.stack([head(self.body(x)) for head in (self.sign, self.larger)])


x, body = torch.randn(2000, 20), nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
model = TwoHeads(OrderedDict(body=body, sign=nn.Linear(64, 2), larger=nn.Linear(64, 2)))
labels = torch.stack([x[:, 0] * x[:, 1] > 0, x[:, 2:6].norm(dim=1) > x[:, 6:10].norm(dim=1)]).long()
sheet = spatial.place(model, x[:1], norm="l1", per="neuron", transport=3.0, proximity=3.0)
for head, side in (("sign", -2), ("larger", 2)):  # each task's outputs are held on a side of their own
    sheet.positions[head].requires_grad_(False)[:, 0] += side
adam = torch.optim.Adam([{"params": model.parameters()}, {"params": sheet.parameters(), "lr": 0.03}], lr=0.003)
for _ in range(400):
    loss = nn.functional.cross_entropy(model(x).flatten(0, 1), labels.flatten()) + sheet.cost()
    adam.zero_grad(), loss.backward(), adam.step()
parts = sheet.split({"sign": "sign", "larger": "larger"})
for task, (name, part) in enumerate(parts.networks.items()):
    before, after = ((each(x)[task].argmax(1) == labels[task]).float().mean() for each in (model, part))
    print(f"{name}: {before:.3f} before the cut, {after:.3f} after")
sheet.plot("own_network.png", parts.owners, names=list(parts.networks))
