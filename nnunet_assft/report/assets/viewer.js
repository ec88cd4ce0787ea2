// The viewer is started by its button or by a link to #viewer. Until then, NiiVue is inert text.
(() => {
  const byId = (id) => document.getElementById(id);
  const cases = JSON.parse(byId("viewer_cases").textContent);
  const colours = JSON.parse(byId("viewer_colours").textContent);
  const [canvas, controls, message, startButton] = ["canvas", "controls", "message", "start"].map((name) => byId(`viewer_${name}`));
  let view = null;
  let turn = 0;

  const say = (text) => { message.textContent = text; };

  async function show() {
    const mine = ++turn;
    const chosen = cases[controls.elements.case.value];
    const volumes = [await niivue.NVImage.loadFromBase64({ base64: chosen.image, name: "image.nii.gz", colormap: "gray" })];
    const layer = chosen.layers[controls.elements.layer.value];
    if (layer) {
      const opacity = Number(controls.elements.opacity.value);
      volumes.push(await niivue.NVImage.loadFromBase64({ base64: layer, name: "label.nii.gz", opacity }));
      volumes[1].setColormapLabel(colours);
    }
    if (mine !== turn) return; // another choice was made in the meantime
    while (view.volumes.length) view.removeVolumeByIndex(view.volumes.length - 1);
    for (const volume of volumes) view.addVolume(volume);
    view.setSliceType(Number(controls.elements.view.value));
    view.updateGLVolume();
    canvas.dataset.drawn = countDrawn();
  }

  function offerLayers() {
    const layers = Object.keys(cases[controls.elements.case.value].layers);
    controls.elements.layer.replaceChildren(...[...layers, "none"].map((name) => new Option(name, name)));
  }

  // The number of pixels that are not background, by which tests distinguish a drawing from an empty canvas.
  function countDrawn() {
    view.drawScene();
    const gl = view.gl;
    const pixels = new Uint8Array(4 * gl.drawingBufferWidth * gl.drawingBufferHeight);
    gl.readPixels(0, 0, gl.drawingBufferWidth, gl.drawingBufferHeight, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
    let drawn = 0;
    for (let i = 0; i < pixels.length; i += 4) drawn += pixels[i] + pixels[i + 1] + pixels[i + 2] > 30 ? 1 : 0;
    return drawn;
  }

  async function start() {
    if (view) return;
    startButton.remove();
    if (!document.createElement("canvas").getContext("webgl2")) {
      say("This browser does not support WebGL 2. The pictures above show the same cases.");
      return;
    }
    const library = document.createElement("script");
    library.textContent = byId("niivue").textContent;
    document.head.append(library);
    canvas.hidden = controls.hidden = false;
    view = new niivue.Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [0.9, 0.6, 0, 0.7], crosshairWidth: 0.3, crosshairWidthUnit: "percent", dragAndDropEnabled: false,
      fontColor: [1, 1, 1, 1], fontMinPx: 16, isRadiologicalConvention: true, sagittalNoseLeft: true, loadingText: "", logLevel: "error",
      multiplanarShowRender: niivue.SHOW_RENDER.NEVER, scrollRequiresFocus: true,
    });
    await view.attachToCanvas(canvas);
    offerLayers();
    await show();
    controls.elements.case.addEventListener("change", () => { offerLayers(); show(); });
    controls.elements.layer.addEventListener("change", show);
    controls.elements.view.addEventListener("change", show);
    controls.elements.opacity.addEventListener("input", () => {
      if (view.volumes.length > 1) view.setOpacity(1, Number(controls.elements.opacity.value));
    });
  }

  const begin = () => start().catch((error) => { say(`The viewer could not start: ${error.message}`); console.error(error); });
  startButton.addEventListener("click", begin);
  controls.addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", () => { if (location.hash === "#viewer") begin(); });
  if (location.hash === "#viewer") begin();
})();
