"""The job of `benchmarks.peers` in flwr's simulation, by the Python of its environment.

    python job_flwr.py DATA ROUNDS

Ray runs two clients at a time, each in a process with one core.
"""

import sys

import torch
import torch_task as task
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

folder, rounds = sys.argv[1], int(sys.argv[2])
client_app, server_app = ClientApp(), ServerApp()
data = []  # of a process, read once


@client_app.train()
def train(message, context):
    """A client's part of a round."""
    torch.set_num_threads(1)
    if not data:
        data.extend([*task.images(folder, "train"), task.client_indices()])
    pixels, labels, indices = data
    own = indices[context.node_config["partition-id"]]
    model = task.network()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    task.train(model, pixels[own], labels[own])
    answer = {
        "arrays": ArrayRecord(model.state_dict()),
        "metrics": MetricRecord({"num-examples": len(own)}),
    }
    return Message(content=RecordDict(answer), reply_to=message)


@server_app.main()
def serve(grid, context):
    """The rounds."""
    test = task.images(folder, "t10k")
    model = task.network()

    def evaluate(done, arrays):
        if done:
            model.load_state_dict(arrays.to_torch_state_dict())
            task.say(done, model, *test)

    strategy = FedAvg(
        fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=task.CLIENTS
    )
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(model.state_dict()),
        num_rounds=rounds,
        evaluate_fn=evaluate,
    )


if __name__ == "__main__":
    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=task.CLIENTS,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
