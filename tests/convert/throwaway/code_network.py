"""A small residual network, as a user's code makes it."""

import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + x)


class Net(nn.Module):
    def __init__(self, classes=4, width=16):
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, width, 3, padding=1), Block(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        return self.fc(self.block(self.stem(x)).mean((2, 3)))


def build():
    torch.manual_seed(0)
    return Net().train()
