/** Where pictures come from, and how they get smaller. Each source ends up as something a canvas can draw. */

import { Scene } from "./scene.js";

export const LONGEST_SIDE = 768;

/** One running source, shown in a video element. */
export class Source {
  #video;
  #stop = () => {};
  #canvas = document.createElement("canvas");

  /** @param {HTMLVideoElement} video */
  constructor(video) {
    this.#video = video;
    this.name = "";
    this.facing = matchMedia("(pointer: coarse)").matches ? "environment" : "user"; // a phone looks away from its owner
    /** Called if the source ends by itself: the camera is unplugged, sharing is stopped. */
    this.onended = () => {};
  }

  get isRunning() {
    return this.name !== "";
  }

  /** Seconds into the video, if it is one. @returns {number | undefined} */
  get position() {
    return this.name === "video" ? this.#video.currentTime : undefined;
  }

  async camera({ deviceId, facing = this.facing } = {}) {
    if (!navigator.mediaDevices) throw new Error(NEEDS_SECURITY);
    this.facing = facing;
    const which = deviceId ? { deviceId: { exact: deviceId } } : { facingMode: facing };
    const stream = await navigator.mediaDevices.getUserMedia({ video: { ...which, width: { ideal: 1280 } } });
    await this.#show("camera", stream);
  }

  async screen() {
    if (!navigator.mediaDevices?.getDisplayMedia) throw new Error(navigator.mediaDevices ? NO_SCREEN : NEEDS_SECURITY);
    await this.#show("screen", await navigator.mediaDevices.getDisplayMedia({ video: true }));
  }

  async scene() {
    const scene = new Scene();
    await this.#show("scene", scene.start(), () => scene.stop());
  }

  /** @param {File} file */
  async film(file) {
    const url = URL.createObjectURL(file);
    this.stop();
    this.#stop = () => {
      this.#video.removeAttribute("src");
      this.#video.load();
      URL.revokeObjectURL(url);
    };
    this.name = "video";
    this.#video.loop = true;
    this.#video.src = url;
    try {
      await this.#video.play();
    } catch {
      this.stop();
      throw new Error("This browser can't play that file.");
    }
  }

  async #show(name, stream, also = () => {}) {
    this.stop();
    const [track] = stream.getTracks();
    track.addEventListener("ended", () => this.name === name && this.onended());
    this.#stop = () => {
      for (const each of stream.getTracks()) each.stop();
      this.#video.srcObject = null;
      also();
    };
    this.name = name;
    this.#video.srcObject = stream;
    await this.#video.play();
  }

  stop() {
    if (!this.isRunning) return;
    this.name = "";
    this.#stop();
  }

  /** What is to be seen now, or null if there is nothing yet. @returns {HTMLCanvasElement | null} */
  picture() {
    const { videoWidth, videoHeight } = this.#video;
    if (!this.isRunning || !videoWidth) return null;
    return drawn(this.#canvas, this.#video, videoWidth, videoHeight);
  }
}

const NEEDS_SECURITY =
  "The browser gives a camera only to localhost or to an encrypted page. Start the server with --tls auto and open its https address.";
const NO_SCREEN = "This browser can't share a screen.";

/** @returns {Promise<MediaDeviceInfo[]>} */
export async function cameras() {
  const all = (await navigator.mediaDevices?.enumerateDevices()) ?? [];
  return all.filter((each) => each.kind === "videoinput" && each.deviceId);
}

/** A picture file as a JPEG that is no larger than a server wants. @param {Blob} file @returns {Promise<Blob>} */
export async function smaller(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error("This browser can't open that picture.");
  }
  const canvas = drawn(document.createElement("canvas"), bitmap, bitmap.width, bitmap.height);
  bitmap.close();
  return jpeg(canvas);
}

/** @param {HTMLCanvasElement} canvas @returns {Promise<Blob>} */
export function jpeg(canvas, quality = 0.85) {
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("There is no picture."))), "image/jpeg", quality);
  });
}

function drawn(canvas, picture, width, height) {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#fff"; // what is transparent
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return canvas;
}
