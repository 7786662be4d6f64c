"""An app as Flower's quickstart for PyTorch makes it: model, data, training, test."""

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    """A small network with a normalisation layer, so that buffers travel too."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.fc2 = nn.Linear(8, 2)

    def forward(self, x):
        return self.fc2(F.relu(self.norm(self.fc1(x))))


def load_data(path):
    data = np.load(path)
    examples = TensorDataset(torch.from_numpy(data["x"]), torch.from_numpy(data["y"]))
    return DataLoader(examples, batch_size=16), DataLoader(examples, batch_size=64)


def train(net, trainloader, epochs, lr, momentum):
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum)
    net.train()
    running_loss = 0.0
    for _ in range(epochs):
        for x, y in trainloader:
            optimizer.zero_grad()
            loss = criterion(net(x), y)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
    return running_loss / (epochs * len(trainloader))


def test(net, testloader):
    net.eval()
    correct, loss = 0, 0.0
    with torch.no_grad():
        for x, y in testloader:
            outputs = net(x)
            loss += F.cross_entropy(outputs, y, reduction="sum").item()
            correct += (outputs.argmax(1) == y).sum().item()
    return loss / len(testloader.dataset), correct / len(testloader.dataset)
