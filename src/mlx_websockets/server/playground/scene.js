/** A drawn scene that moves: shapes, characters, emoji. What the demo model knows. */

const COLOURS = { red: "#d7263d", blue: "#2457c5", green: "#2c9f45", yellow: "#f2c230", purple: "#7d3cb5", orange: "#ee7f1b" };
const SHAPES = ["circle", "square", "triangle", "star"];
const EMOJI = ["🐱", "🐶", "🦊", "🐸", "🐝", "🍎", "🍌", "🍕", "🍓", "🚗", "🚀", "⚽", "🎈", "🔑"];
const DIGITS = [..."0123456789"];
const LETTERS = [..."ABDEFGHKMNRSTXZ"];
const CHANGE_MS = 6000;
const SIDE = 480;

const any = (list) => list[Math.floor(Math.random() * list.length)];

export class Scene {
  #canvas = document.createElement("canvas");
  #timer;
  #things = [];
  #sorts;
  #changeAt = 0;

  constructor() {
    this.#canvas.width = this.#canvas.height = SIDE;
    this.#sorts = hasEmoji() ? [DIGITS, LETTERS, EMOJI, EMOJI] : [DIGITS, LETTERS];
  }

  /** @returns {MediaStream} */
  start(fps = 30) {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.#timer = setInterval(() => this.#draw(calm), 1000 / fps);
    this.#draw(calm);
    return this.#canvas.captureStream(fps);
  }

  stop() {
    clearInterval(this.#timer);
  }

  get canvas() {
    return this.#canvas;
  }

  #draw(calm) {
    const now = performance.now();
    if (now >= this.#changeAt) this.#change(now);
    const pen = this.#canvas.getContext("2d");
    pen.fillStyle = "#f6f4ef";
    pen.fillRect(0, 0, SIDE, SIDE);
    for (const thing of this.#things) {
      const sway = calm ? 0 : 18 * Math.sin(now / 900 + thing.phase);
      drawThing(pen, thing, thing.x + sway, thing.y + (calm ? 0 : 12 * Math.cos(now / 1100 + thing.phase)));
    }
  }

  #change(now) {
    this.#changeAt = now + CHANGE_MS;
    const colours = Object.keys(COLOURS).sort(() => Math.random() - 0.5);
    const kinds = any([[any(SHAPES)], [any(SHAPES), any(SHAPES)], [any(any(this.#sorts))]]);
    const [places, size] = kinds.length === 1 ? [[0.5], 120] : [[0.29, 0.71], 84];
    this.#things = kinds.map((kind, at) => ({
      kind,
      colour: COLOURS[colours[at]],
      x: SIDE * places[at],
      y: SIDE / 2,
      size,
      phase: Math.random() * 6,
    }));
  }
}

/** Whether this machine has a font with emoji in colour. */
function hasEmoji() {
  const pen = Object.assign(document.createElement("canvas"), { width: 20, height: 20 }).getContext("2d");
  pen.font = "16px sans-serif";
  pen.fillText(EMOJI[0], 0, 16);
  const { data } = pen.getImageData(0, 0, 20, 20);
  return data.some((value, at) => at % 4 < 3 && value > 0); // a font without draws in black
}

function drawThing(pen, { kind, colour, size }, x, y) {
  pen.fillStyle = colour;
  pen.beginPath();
  if (kind === "circle") pen.arc(x, y, size, 0, 7);
  else if (kind === "square") pen.rect(x - size * 0.88, y - size * 0.88, size * 1.76, size * 1.76);
  else if (kind === "triangle") polygon(pen, x, y + size * 0.2, [size * 1.15], 3);
  else if (kind === "star") polygon(pen, x, y, [size * 1.15, size * 0.46], 10);
  else {
    pen.font = `bold ${size * 2.6}px system-ui, sans-serif`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.fillText(kind, x, y);
  }
  pen.fill();
}

function polygon(pen, x, y, radii, corners) {
  for (let at = 0; at < corners; at++) {
    const angle = (2 * Math.PI * at) / corners - Math.PI / 2;
    const radius = radii[at % radii.length];
    pen.lineTo(x + radius * Math.cos(angle), y + radius * Math.sin(angle));
  }
  pen.closePath();
}
