/** The numbers beside the stream, what became of the last frames, and a trace of each number over the last replies. */

const KEPT = 60;
const LEAST_PLACES = 15;
const FRAMES_SHOWN = 40;
const TRACES = ["ttft", "age", "queue", "speed"];
const LEAST_TOP = { speed: 10 };
const LEAST_TOP_MS = 100;
const EDGE = 4;

export class Meters {
  #find;
  #counts = { sent: 0, analysed: 0, superseded: 0, unchanged: 0, dropped: 0 };
  /** @type {Record<string, number | null>[]} */
  #kept = [];
  #sentAt = [];

  /** @param {(id: string) => HTMLElement} find */
  constructor(find) {
    this.#find = find;
    new ResizeObserver(() => this.#draw()).observe(find("trace-ttft"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  /**
   * A frame was sent. Call what comes back once it is known what became of it.
   * @returns {(fate: "analysed" | "superseded" | "unchanged" | "dropped") => void}
   */
  sent() {
    this.#sentAt.push(performance.now());
    this.#count("sent");
    const mark = document.createElement("i");
    mark.className = "fate";
    this.#find("fates").append(mark);
    while (this.#find("fates").children.length > FRAMES_SHOWN) this.#find("fates").firstElementChild.remove();
    return (fate) => {
      mark.className = `fate ${fate}`;
      this.#count(fate);
    };
  }

  #count(what) {
    this.#counts[what] += 1;
    this.#find(`count-${what}`).textContent = String(this.#counts[what]);
  }

  /** Frames a second, over the last three seconds. */
  tick() {
    const since = performance.now() - 3000;
    this.#sentAt = this.#sentAt.filter((at) => at > since);
    this.#find("count-fps").textContent = (this.#sentAt.length / 3).toFixed(1);
  }

  /** @param {import("./client.js").Result} result */
  note({ timings }) {
    if (!timings?.ttft_ms) return;
    const { ttft_ms: ttft, frame_age_ms: age = null, queue_ms: queue, tokens_per_second: speed } = timings;
    this.#kept.push({ ttft, age, queue, speed });
    this.#kept = this.#kept.slice(-KEPT);
    for (const name of TRACES) this.#write(name, this.#kept.at(-1)[name]);
    this.#draw();
  }

  #write(name, value) {
    if (value === null) return;
    this.#find(`meter-${name}`).textContent = value < 100 && name === "speed" ? value.toFixed(1) : String(Math.round(value));
  }

  #draw() {
    for (const name of TRACES) {
      const canvas = /** @type {HTMLCanvasElement} */ (this.#find(`trace-${name}`));
      const values = this.#kept.map((each) => each[name]);
      const top = Math.max(LEAST_TOP[name] ?? LEAST_TOP_MS, ...values);
      drawTrace(canvas, values, top);
      this.#find(`top-${name}`).textContent = values.length ? `up to ${rounded(name, top)}` : "";
    }
  }
}

function rounded(name, value) {
  if (name === "speed") return String(Math.round(value));
  return value >= 1000 ? `${(value / 1000).toFixed(1)} s` : `${Math.round(value)} ms`;
}

/** The newest value at the right end; where a reply has none, the line goes on to the next. */
function drawTrace(canvas, values, top) {
  const { clientWidth: width, clientHeight: height } = canvas;
  if (!width) return;
  const ratio = devicePixelRatio || 1;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const style = getComputedStyle(canvas);
  pen.fillStyle = style.getPropertyValue("--line");
  pen.fillRect(0, height - 1, width, 1);
  const step = (width - 2 * EDGE) / (Math.max(values.length, LEAST_PLACES) - 1);
  const points = values
    .map((value, at) => [width - EDGE - (values.length - 1 - at) * step, height - EDGE - (value / top) * (height - 2 * EDGE)])
    .filter((_, at) => values[at] !== null);
  if (!points.length) return;
  pen.strokeStyle = pen.fillStyle = style.getPropertyValue("--accent");
  pen.lineWidth = 1.75;
  pen.lineJoin = "round";
  pen.beginPath();
  for (const [x, y] of points) pen.lineTo(x, y);
  pen.stroke();
  pen.beginPath();
  pen.arc(...points.at(-1), 2.5, 0, 7);
  pen.fill();
}
