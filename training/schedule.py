"""The learning rate over time and the Muon optimiser."""
import torch


def ramp(step, warmup, progress, flat=0.5):
    """Factor on the rate: linear warm-up over `warmup` steps; from `flat` of the progress on, linear to zero."""
    return min(1.0, (step + 1) / warmup) * min(1.0, max(0.0, (1 - progress) / (1 - flat)))


def orthogonalise(matrices, rounds=5):
    """Newton-Schulz iteration towards the nearest orthogonal matrix, for a batch (N, rows, columns) with rows <= columns.

    Quintic coefficients as published with Muon (Jordan et al. 2024).
    """
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


class Muon(torch.optim.Optimizer):
    """Momentum whose update of each weight matrix is orthogonalised; matrices of one shape go together.

    A convolution counts as the matrix (outputs, inputs x kernel).
    """

    def __init__(self, parameters, lr=0.02, momentum=0.95, weight_decay=0.01):
        super().__init__(parameters, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            by_shape = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shape = (len(parameter), parameter.numel() // len(parameter))
                    by_shape.setdefault(shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                self.update(parameters, shape, group)

    def update(self, parameters, shape, group):
        gradients = [p.grad.contiguous() for p in parameters]
        for parameter in parameters:
            if "velocity" not in self.state[parameter]:
                self.state[parameter]["velocity"] = torch.zeros_like(parameter)
        velocities = [self.state[p]["velocity"] for p in parameters]
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, gradients)
        updates = torch.stack([(g + group["momentum"] * v).view(shape) for g, v in zip(gradients, velocities)])
        tall = shape[0] > shape[1]
        updates = updates.transpose(1, 2) if tall else updates
        dtype = torch.bfloat16 if updates.is_cuda else torch.float32
        updates = orthogonalise(updates.to(dtype)).float()
        updates = updates.transpose(1, 2) if tall else updates
        factor = max(1.0, shape[0] / shape[1]) ** 0.5
        updates = updates * (group["lr"] * factor)
        keep = 1 - group["lr"] * group["weight_decay"]
        for parameter, update in zip(parameters, updates):
            parameter.mul_(keep).sub_(update.view(parameter.shape))
