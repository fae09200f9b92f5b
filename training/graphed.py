"""Training steps as CUDA graphs: the networks are small, so launching kernels one by one would take most of the time."""
import torch


class GraphedStep:
    """Runs `body(key)`, a whole training step, as one graph per key (an image size and a text length).

    `body` draws its batch on the device, sets gradients to None, computes the loss, goes backward and steps the
    optimisers; it returns tensors that later calls with the same key overwrite. Without a GPU it simply runs.
    """

    def __init__(self, body, enabled):
        self.body, self.enabled, self.graphs = body, enabled, {}
        self.pool = torch.cuda.graph_pool_handle() if enabled else None

    def __call__(self, key):
        if not self.enabled:
            return self.body(key)
        if key not in self.graphs:
            self.graphs[key] = self.capture(key)
        graph, result = self.graphs[key]
        graph.replay()
        return result

    def capture(self, key):
        """Two ordinary steps on a side stream set up optimiser states and libraries; then the step is recorded."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self.body(key)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            result = self.body(key)
        return graph, result


def make_adamw(parameters, rate, device, weight_decay=1e-4):
    """AdamW; on a GPU fused and with its rate in a tensor, as graphs need it."""
    options = {"lr": rate, "betas": (0.9, 0.98), "weight_decay": weight_decay}
    if device.type == "cuda":
        options.update(lr=torch.tensor(rate, device=device), capturable=True, fused=True)
    return torch.optim.AdamW(parameters, **options)


def set_rate(optimizer, rate):
    """Sets the rate in place where it is a tensor that graphs read."""
    for group in optimizer.param_groups:
        if torch.is_tensor(group["lr"]):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
