"""Components for images, (channels, height, width) a sample. SSIM and colour spaces need the extra ``cv``."""

COMPONENTS: dict[str, dict[str, str]] = {
    "model": {"cnn": "domain.cv.model.cnn:CNN", "resnet": "domain.cv.model.resnet:ResNet"},
    "data": {"digits": "domain.cv.data.digits:digits"},
    "loss": {"ssim": "domain.cv.loss.ssim:SSIM"},
    "transform": {"color_space": "domain.cv.transform.loss.color_space:ColorSpace"},
}
