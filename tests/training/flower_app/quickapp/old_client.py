"""The same client by client_fn and NumPyClient."""

from collections import OrderedDict

import torch
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp

from quickapp.task import Net, load_data, test, train


class FlowerClient(NumPyClient):
    def __init__(self, path, run_config):
        self.net = Net()
        self.trainloader, self.testloader = load_data(path)
        self.run_config = run_config

    def set_weights(self, parameters):
        keys = zip(self.net.state_dict().keys(), parameters, strict=True)
        self.net.load_state_dict(OrderedDict({k: torch.tensor(v) for k, v in keys}), strict=True)

    def fit(self, parameters, config):
        self.set_weights(parameters)
        loss = train(
            self.net,
            self.trainloader,
            self.run_config["local-epochs"],
            config["lr"],
            self.run_config["optimiser.momentum"],
        )
        weights = [value.cpu().numpy() for value in self.net.state_dict().values()]
        return weights, len(self.trainloader.dataset), {"train_loss": loss}

    def evaluate(self, parameters, config):
        self.set_weights(parameters)
        loss, accuracy = test(self.net, self.testloader)
        return loss, len(self.testloader.dataset), {"eval_acc": accuracy}


def client_fn(context):
    return FlowerClient(context.node_config["dataset-path"], context.run_config).to_client()


app = ClientApp(client_fn=client_fn)
