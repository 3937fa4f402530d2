"""Places for the channels of torchvision's ResNet-18, whose skip connections give layers several sources."""

import torch
from torchvision.models import resnet18

import spatial

model, images, labels = resnet18(num_classes=10), torch.randn(8, 3, 64, 64), torch.arange(8)
sheet = spatial.place(model, images, norm="l1", per="neuron")
print(sheet)
print("fc reads", ", ".join(edge.source for edge in sheet.connections if edge.target == "fc"))

adam = torch.optim.Adam([{"params": model.parameters()}, {"params": sheet.parameters(), "lr": 0.05}], lr=1e-3)
for step in range(5):
    costs = sheet.costs()
    loss = torch.nn.functional.cross_entropy(model(images), labels) + sheet.cost()
    adam.zero_grad(), loss.backward(), adam.step()
    print(f"step {step}  loss {loss:.3f}", *(f"{name} {value:.3f}" for name, value in costs.items()), sep="  ")
sheet.plot("resnet18.png")
