// The connection: messages in, orders out, and a new try after every loss.

const HEADER = 16;
const KINDS = { 1: "image/webp", 2: "image/jpeg" };

export class Link {
  constructor({ text, frame, state }) {
    Object.assign(this, { text, frame, state, wait: 250 });
    this.open();
    addEventListener("online", () => this.again());
    document.addEventListener("visibilitychange", () => document.hidden || this.again());
  }

  open() {
    const url = new URL("live", location.href);
    url.protocol = "ws:";
    const socket = (this.socket = new WebSocket(url));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { this.wait = 250; this.state("on"); };
    socket.onmessage = ({ data }) => {
      if (typeof data === "string") this.text(JSON.parse(data));
      else this.frame(read(data));
    };
    socket.onclose = () => {
      if (socket !== this.socket) return;
      this.state("wait");
      this.timer = setTimeout(() => this.open(), this.wait * (0.75 + Math.random() / 2));
      this.wait = Math.min(8000, this.wait * 2);
    };
  }

  again() { // no need to sit the wait out
    if (this.socket.readyState !== WebSocket.CLOSED) return;
    clearTimeout(this.timer);
    this.open();
  }

  send(order) {
    if (this.socket.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(order));
    return true;
  }
}

function read(buffer) {
  const v = new DataView(buffer);
  return {
    pane: v.getUint8(1), nth: v.getUint8(3), prompt: v.getUint16(4, true), each: v.getUint16(6, true),
    block: v.getUint32(8, true), frame: v.getUint32(12, true),
    picture: new Blob([new Uint8Array(buffer, HEADER)], { type: KINDS[v.getUint8(2)] }),
  };
}
