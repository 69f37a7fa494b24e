// Ask about a picture from Node 22 or newer, with nothing installed.
//
//     node examples/node.mjs [ws://localhost:8765] [picture.png] ["What is it?"]

import { readFile } from "node:fs/promises";

const [url = "ws://localhost:8765", file, prompt = "What does the picture show?"] = process.argv.slice(2);
const picture = await readFile(file ?? new URL("circle.png", import.meta.url));
const socket = new WebSocket(url);

socket.onopen = () => {
  socket.send(JSON.stringify({ type: "image_input", image: picture.toString("base64"), prompt }));
};

socket.onmessage = ({ data }) => {
  const message = JSON.parse(data);
  switch (message.type) {
    case "token":
      process.stdout.write(message.content);
      break;
    case "response_complete":
      process.stdout.write("\n");
      socket.close();
      break;
    case "error":
      console.error(`✗ ${message.error}`);
      process.exitCode = 1;
      socket.close();
  }
};

socket.onerror = () => {
  console.error(`✗ No server answers at ${url}.\n→ mlx serve --model demo`);
  process.exitCode = 1;
};
