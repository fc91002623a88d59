// The page: what is shown, and how it is turned.

const byId = id => document.getElementById(id);
const canvas = byId("canvas");

function fail(sentence) {
  byId("message").textContent = sentence;
  byId("message").hidden = false;
  byId("bar").hidden = true;
}

function embedded(id) {
  const text = byId(id).textContent.trim();
  return text ? Uint8Array.from(atob(text), letter => letter.charCodeAt(0)) : null;
}

async function gunzip(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function start() {
  const gl = canvas.getContext("webgl2", { antialias: true, alpha: false });
  if (!gl) return fail("This browser shows no 3D: it lacks WebGL 2, or it is switched off.");
  canvas.addEventListener("webglcontextlost", () => fail("The graphics were reset; reload this page."));
  const packed = embedded("data-splats"), glb = embedded("data-mesh");
  const splats = packed && new SplatView(gl, await gunzip(packed));
  const mesh = glb && await MeshView.make(gl, glb);
  const { centre, radius } = bounds((mesh || splats).positions);
  const camera = new Camera(centre, radius);
  const state = {
    mode: splats ? "splats" : "mesh",
    turning: !matchMedia("(prefers-reduced-motion: reduce)").matches,
    dirty: true,
    ground: [0.95, 0.95, 0.95],
  };
  controls(state, camera, splats, mesh);
  const facts = [splats && `${splats.count.toLocaleString("en")} Gaussians`,
    mesh && `${(mesh.count / 3).toLocaleString("en")} triangles`];
  byId("about").textContent = [document.title, ...facts.filter(Boolean)].join(" · ");

  let before = 0;
  const frame = now => {
    requestAnimationFrame(frame);
    if (state.turning) camera.turn(0.0005 * Math.min(now - before, 100), 0);
    before = now;
    const scale = Math.min(devicePixelRatio || 1, 2);
    const width = Math.max(1, Math.round(canvas.clientWidth * scale));
    const height = Math.max(1, Math.round(canvas.clientHeight * scale));
    const resized = canvas.width !== width || canvas.height !== height;
    if (!(state.turning || state.dirty || resized)) return;
    if (resized) Object.assign(canvas, { width, height });
    state.dirty = false;
    gl.viewport(0, 0, width, height);
    gl.clearColor(...state.ground, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const view = camera.view(), projection = camera.projection(width, height);
    if (state.mode === "splats") splats.draw(view, projection, width, height);
    else mesh.draw(view, projection, state.mode);
    document.body.dataset.shown = state.mode;
  };
  requestAnimationFrame(frame);
}

function controls(state, camera, splats, mesh) {
  const pressed = () => {
    for (const button of document.querySelectorAll("[data-mode]"))
      button.setAttribute("aria-pressed", button.dataset.mode === state.mode);
    byId("turn").setAttribute("aria-pressed", state.turning);
    state.dirty = true;
  };
  for (const button of document.querySelectorAll("[data-mode]")) {
    button.hidden = !(button.dataset.mode === "splats" ? splats : mesh);
    button.onclick = () => { state.mode = button.dataset.mode; pressed(); };
  }
  byId("turn").onclick = () => { state.turning = !state.turning; pressed(); };
  const ground = () => {
    const colour = byId("ground").value;
    state.ground = [1, 3, 5].map(i => parseInt(colour.slice(i, i + 2), 16) / 255);
    document.body.style.background = colour;
    state.dirty = true;
  };
  byId("ground").oninput = ground;
  ground();
  pressed();

  const held = new Map(); // pointers that are down, and where they are
  const middle = () => {
    const places = [...held.values()], n = places.length;
    const x = places.reduce((sum, p) => sum + p[0], 0) / n, y = places.reduce((sum, p) => sum + p[1], 0) / n;
    return { x, y, spread: places.reduce((sum, p) => sum + Math.hypot(p[0] - x, p[1] - y), 0) / n };
  };
  canvas.onpointerdown = event => {
    canvas.setPointerCapture(event.pointerId);
    held.set(event.pointerId, [event.clientX, event.clientY]);
    state.turning = false;
    pressed();
  };
  canvas.onpointermove = event => {
    if (!held.has(event.pointerId)) return;
    const old = middle();
    held.set(event.pointerId, [event.clientX, event.clientY]);
    const now = middle(), side = Math.min(canvas.clientWidth, canvas.clientHeight);
    const x = (now.x - old.x) / side, y = (now.y - old.y) / side;
    if (held.size > 1 || event.buttons & 2 || event.shiftKey) camera.shift(-x, y);
    else camera.turn(-4 * x, 4 * y);
    if (held.size > 1 && now.spread > 0) camera.approach(old.spread / now.spread);
    state.dirty = true;
  };
  canvas.onpointerup = canvas.onpointercancel = event => held.delete(event.pointerId);
  canvas.oncontextmenu = event => event.preventDefault();
  canvas.ondblclick = () => { camera.reset(); state.dirty = true; };
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    camera.approach(Math.exp(0.001 * event.deltaY * (event.deltaMode ? 30 : 1)));
    state.dirty = true;
  }, { passive: false });
  addEventListener("keydown", event => {
    const turns = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };
    if (event.target.matches("button, input")) return;
    if (event.key in turns) camera.turn(...turns[event.key]);
    else if (event.key === " ") state.turning = !state.turning;
    else return;
    event.preventDefault();
    pressed();
  });
}

start().catch(error => fail(`It cannot be shown: ${error.message}.`));
