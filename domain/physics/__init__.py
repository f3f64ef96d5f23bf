"""Components for fields on grids, (channels, n) or (channels, n, n) a sample, and the equations that give them."""

COMPONENTS: dict[str, dict[str, str]] = {
    "model": {"fno": "domain.physics.model.fno:FNO"},
    "data": {
        "darcy": "domain.physics.data.darcy:darcy",
        "poisson": "domain.physics.data.poisson:poisson",
    },
}
