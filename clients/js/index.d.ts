/** A file's bytes, a canvas, or pixels; what is no file yet is sent as a JPEG. */
export type Picture = Blob | Uint8Array | ArrayBuffer | ImageData | HTMLCanvasElement | OffscreenCanvas;

export interface ConnectOptions {
  /** The server's token, if it wants one. */
  token?: string;
  /** Which of the server's models is asked, where a request names none. */
  model?: string;
  /** False ends everything with the first socket that breaks. */
  reconnect?: boolean;
}

export interface RequestOptions {
  /** Settings for this reply alone. */
  config?: Settings;
  /** Replaces the model's own system text. */
  system?: string;
  /** See what was asked with `history` before in this session, and be kept with it. */
  history?: boolean;
  /** Strings that end the reply and are not part of it. */
  stop?: string[];
  /** A JSON schema: the reply is JSON that meets it, if its `finishReason` is "stop". */
  responseFormat?: object;
  /** "background" lets everybody else go first. */
  priority?: "interactive" | "frame" | "background";
  /** If it has not begun after so many milliseconds, it fails with the code `expired`. */
  deadlineMs?: number;
  /** Which of the server's models is asked. */
  model?: string;
  /** A name for where the picture comes from. */
  source?: string;
}

export interface AskOptions extends RequestOptions {
  images?: Picture[];
  /** Goes before the question, into the same turn. */
  context?: string;
}

export interface ShowOptions extends RequestOptions {
  prompt?: string;
  frameId?: string | number;
  /** When it was taken, in seconds since 1970. */
  capturedAt?: number;
  /** "queue" makes a frame wait its turn; "latest" lets a newer one take its place. */
  policy?: "latest" | "queue";
}

/** What a reply came to. Where it was `dropped`, the frame was not looked at. */
export interface Result {
  text: string;
  dropped?: string;
  finishReason?: string;
  usage?: Usage;
  timings?: Timings;
  /** The engine's time for it. */
  seconds?: number;
  /** All replies, where `candidateCount` asked for several. */
  candidates?: { text: string; finishReason: string; logprobs: TokenLogprob[] }[];
  /** Of the tokens of `text`, where `logprobs` asked for them. */
  logprobs?: TokenLogprob[];
}

/** A part of a reply. Its text may be empty where there are `logprobs`. */
export interface Piece {
  text: string;
  candidate: number;
  logprobs: TokenLogprob[];
}

export class ConnectionLost extends Error {
  readonly closeCode: number;
}

export class ReplyError extends Error {
  readonly code: string;
  readonly param?: string;
  readonly retryable: boolean;
  readonly retryAfterMs?: number;
}

/** Iterate it for its text, or await its `result`. Both fail with `ReplyError` or `ConnectionLost`. */
export class Reply implements AsyncIterable<string> {
  readonly id: string;
  readonly isOver: boolean;
  readonly started?: ResponseStart;
  readonly result: Promise<Result>;
  readonly text: Promise<string>;
  cancel(): void;
  /** Everything as it comes: each candidate's text, and how likely its tokens were. */
  pieces(): AsyncGenerator<Piece, void, undefined>;
  [Symbol.asyncIterator](): AsyncGenerator<string, void, undefined>;
}

export interface StateDetail {
  state: "open" | "away" | "closed";
  /** Whether the session of before goes on, once it is open. */
  resumed?: boolean;
  reason?: string;
}

export interface MessageDetail {
  direction: "in" | "out";
  message: PeerMessage | ServerMessage;
  bytes: number;
}

export interface ClientEvents {
  /** The connection was opened, lost or closed. */
  state: CustomEvent<StateDetail>;
  /** Something went over the socket. */
  message: CustomEvent<MessageDetail>;
}

export class Client extends EventTarget {
  readonly hello?: Hello;
  readonly state: "open" | "away" | "closed";
  readonly bufferedAmount: number;
  readonly unsent: number;
  readonly latencyMs?: number;
  ask(text: string, options?: AskOptions): Reply;
  show(picture: Picture, options?: ShowOptions): Reply;
  configure(settings: Settings): Promise<Settings>;
  status(): Promise<Record<string, unknown>>;
  models(): Promise<ModelState[]>;
  /** Have a model in memory before somebody asks it something. */
  loadModel(model: string, onProgress?: (progress: ModelProgress) => void): Promise<void>;
  unloadModel(model: string): Promise<void>;
  /** Milliseconds to the server and back. */
  ping(): Promise<number>;
  cancel(what?: { id?: string; source?: string }): void;
  close(): void;
  addEventListener<Name extends keyof ClientEvents>(
    type: Name,
    listener: (event: ClientEvents[Name]) => void,
    options?: AddEventListenerOptions | boolean,
  ): void;
  addEventListener(
    type: string,
    callback: EventListenerOrEventListenerObject | null,
    options?: AddEventListenerOptions | boolean,
  ): void;
}

export function connect(url?: string, options?: ConnectOptions): Promise<Client>;

// wire types: written by `make docs`
export interface Settings {
  candidateCount?: number;
  maxOutputTokens?: number;
  temperature?: number;
  topP?: number;
  topK?: number;
  presencePenalty?: number;
  frequencyPenalty?: number;
  responseModalities?: string[];
  max_tokens_image?: number;
  seed?: number | null;
  logprobs?: number | null;
  minP?: number;
  unchangedThreshold?: number;
}

export interface Usage {
  input_tokens?: number;
  image_tokens?: number;
  output_tokens?: number;
  cached_tokens?: number;
}

export interface Timings {
  queue_ms: number;
  image_ms: number;
  vision_ms: number;
  prefill_ms: number;
  ttft_ms: number;
  tokens_per_second: number;
  frame_age_ms?: number;
}

export interface ModelState {
  id: string;
  state: string;
  memory_bytes: number;
  running: number;
  vision?: boolean;
}

export interface LikelyToken {
  token: string;
  logprob: number;
}

export interface TokenLogprob {
  token: string;
  logprob: number;
  top: LikelyToken[];
}

export interface Candidate {
  index: number;
  text: string;
  finish_reason: string;
}

export interface TextInput {
  type: "text_input";
  id?: string;
  config?: Settings;
  history?: boolean;
  stop?: string[];
  system?: string;
  response_format?: unknown;
  model?: string;
  priority?: "interactive" | "frame" | "background";
  deadline_ms?: number;
  content: string;
  context?: string;
}

export interface ImageInput {
  type: "image_input";
  id?: string;
  config?: Settings;
  history?: boolean;
  stop?: string[];
  system?: string;
  response_format?: unknown;
  model?: string;
  priority?: "interactive" | "frame" | "background";
  deadline_ms?: number;
  image?: string;
  frame?: string;
  prompt?: string;
  source?: string;
  mime?: string;
  images?: string[];
}

export interface VideoFrame {
  type: "video_frame";
  id?: string;
  config?: Settings;
  history?: boolean;
  stop?: string[];
  system?: string;
  response_format?: unknown;
  model?: string;
  priority?: "interactive" | "frame" | "background";
  deadline_ms?: number;
  image?: string;
  frame?: string;
  prompt?: string;
  source?: string;
  mime?: string;
  frame_id?: number | string;
  ts?: number;
  policy?: "latest" | "queue";
}

export interface ScreenFrame {
  type: "screen_frame";
  id?: string;
  config?: Settings;
  history?: boolean;
  stop?: string[];
  system?: string;
  response_format?: unknown;
  model?: string;
  priority?: "interactive" | "frame" | "background";
  deadline_ms?: number;
  image?: string;
  frame?: string;
  prompt?: string;
  source?: string;
  mime?: string;
  frame_id?: number | string;
  ts?: number;
  policy?: "latest" | "queue";
}

export interface Config {
  type: "config";
  candidateCount?: number;
  maxOutputTokens?: number;
  temperature?: number;
  topP?: number;
  topK?: number;
  presencePenalty?: number;
  frequencyPenalty?: number;
  responseModalities?: string[];
  max_tokens_image?: number;
  seed?: number | null;
  logprobs?: number | null;
  minP?: number;
  unchangedThreshold?: number;
  id?: string;
}

export interface GetStatus {
  type: "get_status";
  id?: string;
}

export interface Cancel {
  type: "cancel";
  id?: string;
  source?: string;
}

export interface Ping {
  type: "ping";
  id?: string;
  t?: number | string;
}

export interface Resume {
  type: "resume";
  id?: string;
  token: string;
  last_seq: number;
}

export interface ListModels {
  type: "list_models";
  id?: string;
}

export interface LoadModel {
  type: "load_model";
  id?: string;
  model: string;
}

export interface UnloadModel {
  type: "unload_model";
  id?: string;
  model: string;
}

export interface Hello {
  type: "hello";
  protocol: string;
  server: string;
  session: string;
  model: Record<string, unknown>;
  limits: Record<string, number>;
  features: string[];
  resume_token?: string;
}

export interface Resumed {
  type: "resumed";
  id?: string;
  session: string;
  missed: number;
  received: number;
}

export interface ResponseStart {
  type: "response_start";
  id?: string;
  timestamp: number;
  input_type: "text" | "image";
  model?: string;
  source?: string;
  frame_id?: string | number;
  queue_ms?: number;
}

export interface Token {
  type: "token";
  id?: string;
  content: string;
  timestamp: number;
  seq?: number;
  candidate?: number;
  logprobs?: TokenLogprob[];
}

export interface ResponseComplete {
  type: "response_complete";
  id?: string;
  full_text: string;
  timestamp: number;
  input_type: "text" | "image";
  inference_time: number;
  finish_reason?: string;
  usage?: Usage;
  timings?: Timings;
  candidates?: Candidate[];
}

export interface FrameDropped {
  type: "frame_dropped";
  id?: string;
  reason: string;
  source?: string;
  frame_id?: string | number;
}

export interface ErrorMessage {
  type: "error";
  id?: string;
  error: string;
  timestamp: number;
  code: string;
  param?: string;
  retryable?: boolean;
  retry_after_ms?: number;
  fatal?: boolean;
}

export interface ConfigUpdated {
  type: "config_updated";
  id?: string;
  updated_fields: Record<string, unknown>;
  current_config: Settings;
}

export interface Status {
  type: "status";
  id?: string;
  stats: Record<string, unknown>;
}

export interface Pong {
  type: "pong";
  id?: string;
  t?: unknown;
}

export interface Models {
  type: "models";
  id?: string;
  models: ModelState[];
}

export interface ModelProgress {
  type: "model_progress";
  id?: string;
  model: string;
  stage: string;
  done: number;
  total: number;
  unit: string;
}

export interface ModelLoaded {
  type: "model_loaded";
  id?: string;
  model: string;
  vision: boolean;
}

export interface ModelUnloaded {
  type: "model_unloaded";
  id?: string;
  model: string;
}

export interface GoAway {
  type: "goaway";
  time_left_ms: number;
  reason: string;
}

export type PeerMessage =
  | TextInput
  | ImageInput
  | VideoFrame
  | ScreenFrame
  | Config
  | GetStatus
  | Cancel
  | Ping
  | Resume
  | ListModels
  | LoadModel
  | UnloadModel;

export type ServerMessage =
  | Hello
  | Resumed
  | ResponseStart
  | Token
  | ResponseComplete
  | FrameDropped
  | ErrorMessage
  | ConfigUpdated
  | Status
  | Pong
  | Models
  | ModelProgress
  | ModelLoaded
  | ModelUnloaded
  | GoAway;
// end of wire types
