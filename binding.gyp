# node-gyp's way to the one build there is: CMakeLists.txt, run by scripts/native/build.mjs.
# The action names an output that never exists, so that make asks the build each time whether there is anything to do.
{
  "targets": [
    {
      "target_name": "fluxwarp",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake",
          "inputs": ["CMakeLists.txt"],
          "outputs": ["<(INTERMEDIATE_DIR)/always"],
          "action": ["node", "scripts/native/build.mjs"]
        }
      ]
    }
  ]
}
