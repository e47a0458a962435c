/*
 * Lets the site's search work in pages opened from the file system, where browsers refuse to start
 * a worker: runs the worker's script in a hidden frame instead. Does nothing on a server.
 */
if (location.protocol === "file:") {
  /* Runs in the frame, in place of what only workers have. */
  const insideFrame = () => {
    self.postMessage = (data) => parent.postMessage({ fromWorker: data }, "*");
    self.importScripts = (...addresses) =>
      addresses.reduce(
        (earlier, address) =>
          earlier.then(
            () =>
              new Promise((resolve) => {
                const script = document.createElement("script");
                script.src = address;
                script.onload = resolve;
                script.onerror = resolve;
                document.body.append(script);
              })
          ),
        Promise.resolve()
      );
  };

  window.Worker = class extends EventTarget {
    constructor(address) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.loaded = new Promise((resolve) => this.frame.addEventListener("load", resolve));
      this.frame.srcdoc =
        `<body><script>(${insideFrame})()<\/script>` +
        `<script src="${new URL(address, location.href)}"><\/script>`;
      addEventListener("message", (event) => {
        if (event.source === this.frame.contentWindow && "fromWorker" in event.data) {
          this.dispatchEvent(new MessageEvent("message", { data: event.data.fromWorker }));
        }
      });
      document.body.append(this.frame);
    }

    async postMessage(data) {
      await this.loaded;
      this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
