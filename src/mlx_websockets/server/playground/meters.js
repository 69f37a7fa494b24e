/** The numbers beside the stream, what became of the last frames, and the small plot of the last replies. */

const KEPT = 60;
const FRAMES_SHOWN = 40;
const FIELDS = ["ttft", "speed", "age", "queue"];

export class Meters {
  #find;
  #counts = { sent: 0, analysed: 0, superseded: 0, unchanged: 0, dropped: 0 };
  #times = [];
  #sentAt = [];
  #canvas;

  /** @param {(id: string) => HTMLElement} find */
  constructor(find) {
    this.#find = find;
    this.#canvas = /** @type {HTMLCanvasElement} */ (find("plot"));
    new ResizeObserver(() => this.#plot()).observe(this.#canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#plot());
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
    if (!timings || !timings.ttft_ms) return;
    this.#times.push({ ttft: timings.ttft_ms, speed: timings.tokens_per_second, age: timings.frame_age_ms ?? null });
    this.#times = this.#times.slice(-KEPT);
    const values = [timings.ttft_ms, timings.tokens_per_second, timings.frame_age_ms, timings.queue_ms];
    FIELDS.forEach((name, at) => this.#write(name, values[at]));
    this.#plot();
  }

  #write(name, value) {
    if (value === undefined || value === null) return;
    this.#find(`meter-${name}`).textContent = value < 100 && name === "speed" ? value.toFixed(1) : String(Math.round(value));
  }

  #plot() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    if (!width) return;
    const ratio = devicePixelRatio || 1;
    this.#canvas.width = width * ratio;
    this.#canvas.height = height * ratio;
    const pen = this.#canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(this.#canvas);
    const top = Math.max(100, ...this.#times.map((each) => Math.max(each.ttft, each.age ?? 0)));
    pen.strokeStyle = style.getPropertyValue("--line");
    pen.lineWidth = 1;
    for (const share of [0, 0.5, 1]) {
      const y = Math.round(4 + share * (height - 8)) + 0.5;
      pen.beginPath();
      pen.moveTo(0, y);
      pen.lineTo(width, y);
      pen.stroke();
    }
    this.#line(pen, "age", style.getPropertyValue("--muted"), top, width, height, [4, 3]);
    this.#line(pen, "ttft", style.getPropertyValue("--accent"), top, width, height, []);
    this.#find("plot-top").textContent = top >= 1000 ? `${(top / 1000).toFixed(1)} s` : `${Math.round(top)} ms`;
  }

  #line(pen, name, colour, top, width, height, dashes) {
    const points = this.#times.map((each, at) => [at, each[name]]).filter(([, value]) => value !== null);
    const place = ([at, value]) => [(at / (KEPT - 1)) * (width - 6) + 3, height - 4 - (value / top) * (height - 8)];
    pen.strokeStyle = pen.fillStyle = colour;
    pen.lineWidth = 1.75;
    pen.lineJoin = "round";
    pen.setLineDash(dashes);
    pen.beginPath();
    for (const point of points) pen.lineTo(...place(point));
    pen.stroke();
    pen.setLineDash([]);
    if (!points.length) return;
    pen.beginPath();
    pen.arc(...place(points.at(-1)), 2.5, 0, 7);
    pen.fill();
  }
}
